"""Who may open what: every address of the site, for every kind of visitor, by GET and by POST.

The addresses come from the URL map and the staff from `staff_groups`. An address that nobody has
decided about fails `test_every_address_is_decided`, so that a new one cannot be forgotten.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import URLResolver, get_resolver, reverse

from accounts.models import User
from accounts.staff_groups import GROUPS
from booking_site.tests.factories import AppointmentFactory, SlotFactory, UserFactory
from bookings import lifecycle
from bookings.lifecycle import Holder
from slots.models import Slot

IN, LOGIN, FORBIDDEN, HIDDEN = "let in", "sent to log in", "403", "404"


@dataclass(frozen=True)
class Address:
    """A pattern of the URL map: its full name (its route, where it has none) and parameters."""

    name: str
    route: str
    parameters: tuple[str, ...]

    def path(self, world: SimpleNamespace) -> str:
        values = {name: self._value(name, world) for name in self.parameters}
        if self.name != self.route:
            return reverse(self.name, kwargs=values)
        return "/" + re.sub(r"<(?:\w+:)?(\w+)>", lambda found: str(values[found[1]]), self.route)

    def _value(self, name: str, world: SimpleNamespace) -> Any:
        """Something that there is, and that belongs to somebody else."""
        if name == "object_id":
            _, model = self.model or ("slots", "slot")
            return getattr(world, model).pk
        return getattr(world, name)

    @property
    def model(self) -> tuple[str, str] | None:
        """The application and the model, if it is a page of one in the office."""
        found = re.match(r"admin/(\w+)/(\w+)/", self.route)
        return found and found.groups()


def addresses() -> list[Address]:
    return list(dict.fromkeys(_walk(get_resolver().url_patterns, "", "")))


def _walk(patterns: list, namespace: str, route: str) -> Iterator[Address]:
    for pattern in patterns:
        below = route + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            inside = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            yield from _walk(pattern.url_patterns, inside, below)
            continue
        parameters = getattr(pattern.pattern, "converters", None)
        parameters = parameters or pattern.pattern.regex.groupindex
        name = namespace + pattern.name if pattern.name else below
        yield Address(name, below, tuple(parameters))


# Pages that everybody may open; those of accounts send on who has no need of them.
ANYBODY = {
    *("home", "shows", "show", "doctors", "doctor", "slot", "seat_grid", "hold", "favicon"),
    *("slot_live", "live"),
    "hold_outcome",  # for who has the key; to others there was no such hold
    *("my_bookings", "past_bookings", "cancelled_bookings"),
    *("account_login", "account_signup", "account_logout", "account_inactive"),
    *("account_request_login_code", "account_reset_password"),
    *("account_complete_password_reset", "account_password_reset_completed"),
    "admin:logout",
}
# Steps of something that has not been begun: one is sent to its beginning.
NEXT_STEPS = {
    "account_email_verification_sent",
    "account_confirm_login_code",
    "account_confirm_password_reset_code",
}
SIGNED_IN = {
    *("profile", "account_email", "account_change_password", "account_set_password"),
    "account_reauthenticate",
}
# Somebody else's booking. A user's is hidden from all but the staff who may see it; a guest's is
# for whoever has its address. To change it, staff need the permission for what is done to it. Those
# that only take forms say so (405) to whoever follows a link there.
BOOKINGS = {
    "booking": None,
    "outcome": None,
    "confirm": "bookings.confirm_booking",
    "extend": "bookings.confirm_booking",
    "cancel": "bookings.cancel_booking",
    "move": "bookings.cancel_booking",
    "move_to": "bookings.cancel_booking",
}
TAKE_ONLY = {"get": {"confirm", "extend"}, "post": {"booking", "outcome", "move"}}
# The API: what everybody may ask, the doors to it, and what is for users and for staff alone.
API = {
    *("api:openapi-json", "api:openapi-view", "api:health", "api:health_ready", "api:health_live"),
    *("api:register", "api:token", "api:refresh"),
    *("api:doctors", "api:doctor", "api:shows", "api:show", "api:slots", "api:slot", "api:seats"),
}
API_BOOKINGS = {
    "api:booking": None,
    "api:confirm": "bookings.confirm_booking",
    "api:extend": "bookings.confirm_booking",
    "api:cancel": "bookings.cancel_booking",
    "api:reschedule": "bookings.cancel_booking",
}
API_TAKES = {"get": {"api:booking"}, "post": API_BOOKINGS.keys() - {"api:booking"}}
API_OFFICE = {
    ("api:all_doctors", "get"): "slots.view_doctor",
    ("api:all_doctors", "post"): "slots.add_doctor",
    ("api:add_slot", "post"): "slots.add_slot",
    ("api:add_show", "post"): "slots.add_show",
    ("api:all_slots", "get"): "slots.view_slot",
    ("api:all_bookings", "get"): "bookings.view_booking",
    ("api:expire_holds", "post"): "bookings.release_booking",
}
# Of all staff: what is in them depends on further permissions, or is no secret.
OFFICE = {
    *("admin:index", "admin:app_list", "admin:jsi18n", "admin:view_on_site"),
    *("admin:password_change", "admin:password_change_done"),
}
# Pages of one model: the permissions for seeing them, of which any is enough, and for sending them.
MODEL_PAGES = {
    "changelist": ({"view", "change"}, {"view", "change"}),
    "add": ({"add"}, {"add"}),
    "change": ({"view", "change"}, {"change"}),
    "delete": ({"delete"}, {"delete"}),
    "history": ({"view", "change"}, {"view", "change"}),
    "password_change": ({"change"}, {"change"}),
    "seats": ({"change"}, {"change"}),
    "confirm": ({"confirm"}, {"confirm"}),
    "release": ({"release"}, {"release"}),
    "cancel": ({"cancel"}, {"cancel"}),
    "export": ({"export"}, {"export"}),
}
# What the lifecycle owns nobody adds, edits or deletes, superusers included.
NOBODY = {
    ("admin:bookings_booking_add", "get"),
    ("admin:bookings_booking_add", "post"),
    ("admin:bookings_booking_delete", "get"),
    ("admin:bookings_booking_delete", "post"),
    ("admin:bookings_booking_change", "post"),
    ("admin:autocomplete", "get"),  # no field is filled in with its help
}


def expected(address: Address, method: str, user: User | None, *, of_guest: bool = False) -> str:
    """What is to become of that visitor there. Raises LookupError if nobody has decided."""
    name, is_staff = address.name, user is not None and user.is_staff
    if name in ANYBODY:
        return IN
    if name == "api_nothing_here":
        return HIDDEN
    if name in NEXT_STEPS:
        return IN if user and name != "account_confirm_password_reset_code" else LOGIN
    if name in SIGNED_IN:
        return IN if user else LOGIN
    if name in BOOKINGS:
        if name in TAKE_ONLY[method]:
            return IN
        if not of_guest and not (is_staff and user.has_perm("bookings.view_booking")):
            return HIDDEN
        needed = BOOKINGS[name]
        return IN if needed is None or not is_staff or user.has_perm(needed) else FORBIDDEN
    if name.startswith("api:"):
        return _expected_of_api(name, method, user, of_guest=of_guest)
    if name == "admin:login":
        return IN if is_staff else FORBIDDEN if user else LOGIN
    if not address.route.startswith("admin/"):
        raise LookupError(name)
    if not is_staff:
        return LOGIN
    if (name, method) in NOBODY:
        return FORBIDDEN
    if name in OFFICE | {"admin:autocomplete"}:
        return IN
    if name == "admin/(?P<url>.*)$":
        return HIDDEN
    app, model = address.model
    if name == address.route:  # an old address of the change page, which it leads to
        return IN
    page = re.match(rf"admin:\w+?_{model}_(\w+)$", name)[1]
    verbs = MODEL_PAGES[page][method == "post"]
    return IN if any(user.has_perm(f"{app}.{verb}_{model}") for verb in verbs) else FORBIDDEN


def _expected_of_api(name: str, method: str, user: User | None, *, of_guest: bool) -> str:
    if name in API or (name, method) == ("api:bookings", "post"):
        return IN
    if name == "api:bookings":
        return IN if user else LOGIN
    if name in ("api:booking_by_key", "api:api-root"):
        return HIDDEN if name == "api:api-root" or method == "get" else IN
    if name in API_BOOKINGS:
        if name not in API_TAKES[method]:
            return IN
        is_staff = user is not None and user.is_staff
        if not of_guest and not (is_staff and user.has_perm("bookings.view_booking")):
            return HIDDEN
        needed = API_BOOKINGS[name]
        return IN if needed is None or not is_staff or user.has_perm(needed) else FORBIDDEN
    if not any(name == known for known, _ in API_OFFICE):
        raise LookupError(name)
    if (name, method) not in API_OFFICE:
        return IN
    if user is None:
        return LOGIN
    return IN if user.is_staff and user.has_perm(API_OFFICE[name, method]) else FORBIDDEN


def outcome(response: HttpResponse) -> str:
    assert response.status_code < 500
    to = response.headers.get("Location", "")
    if to.startswith((reverse("account_login"), reverse("admin:login"))):
        return LOGIN
    return {401: LOGIN, 403: FORBIDDEN, 404: HIDDEN}.get(response.status_code, IN)


@pytest.fixture
def world(db: None) -> SimpleNamespace:
    """One of everything, none of it the visitors' own, and the visitors."""
    owner, slot, appointment = UserFactory(), SlotFactory(rows=1), AppointmentFactory()
    booking = lifecycle.hold(slot, quantity=1, holder=Holder(user=owner))
    guests = lifecycle.hold(slot, quantity=1, holder=Holder(session_key="another browser"))
    staff = {name: UserFactory(is_staff=True) for name in GROUPS}
    for name, user in staff.items():
        user.groups.add(Group.objects.get(name=name))
    boss = UserFactory(is_staff=True, is_superuser=True)
    return SimpleNamespace(
        visitors={"anonymous": None, "patient": UserFactory(), **staff, "superuser": boss},
        user=owner,
        group=Group.objects.first(),
        doctor=appointment.doctor,
        show=slot.show,
        slot=slot,
        booking=booking,
        guests=guests,
        id=owner.pk,
        doctor_id=appointment.doctor_id,
        show_id=slot.show_id,
        slot_id=slot.pk,
        booking_id=booking.pk,
        app_label="slots",
        url="nonsense",
        key="nonsense",
        content_type_id=ContentType.objects.get_for_model(Slot).pk,
    )


WRITES = re.compile(r'(?:INSERT INTO|UPDATE|DELETE FROM) "?((?:accounts|slots|bookings|auth)_\w+)')


@contextmanager
def writes() -> Iterator[list[str]]:
    """The tables of ours that are written to meanwhile."""
    written: list[str] = []

    def watch(execute: Callable, sql: str, params: Any, many: bool, context: dict) -> Any:
        written.extend(WRITES.findall(sql))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        yield written


def test_every_address_is_decided() -> None:
    undecided = []
    for address in addresses():
        try:
            expected(address, "get", None)
            expected(address, "post", User(is_staff=True, is_superuser=True, is_active=True))
        except (LookupError, TypeError):
            undecided.append(address.name)
    assert undecided == []


@pytest.mark.parametrize("address", addresses(), ids=lambda address: address.name)
def test_each_visitor_is_let_in_or_not(address: Address, world: SimpleNamespace) -> None:
    """And who is not let in changes nothing."""
    assert_each_is_let_in_or_not(address, world)


@pytest.mark.parametrize(
    "address",
    [address for address in addresses() if address.name in BOOKINGS | API_BOOKINGS],
    ids=lambda address: address.name,
)
def test_each_visitor_is_let_in_or_not_to_a_guests_booking(
    address: Address, world: SimpleNamespace
) -> None:
    world.booking_id = world.guests.pk
    world.visitors["staff without a group"] = UserFactory(is_staff=True)
    assert_each_is_let_in_or_not(address, world, of_guest=True)


def assert_each_is_let_in_or_not(address: Address, world: SimpleNamespace, **options: bool) -> None:
    """What one visitor does is undone before the next one comes."""
    path = address.path(world)
    found, wanted, changed = {}, {}, []
    for who, user in world.visitors.items():
        visitor = Client()
        if user:
            visitor.force_login(user)
            user.refresh_from_db()
        for method in ("get", "post"):
            start = transaction.savepoint()
            client = Client()
            client.cookies.load(visitor.cookies)
            wanted[who, method] = expected(address, method, user, **options)
            body = {}
            if "/api/" in path:
                wish = {"slot": world.slot.pk, "quantity": 1}
                body = {"data": wish, "content_type": "application/json"}
            with writes() as written:
                answer = client.post(path, **body) if method == "post" else client.get(path)
            found[who, method] = outcome(answer)
            if found[who, method] != IN and written:
                changed.append((who, method))
            transaction.savepoint_rollback(start)
    assert found == wanted
    assert changed == []


def test_patients_and_staff_without_a_group_have_no_rights(world: SimpleNamespace) -> None:
    for user in (world.visitors["patient"], UserFactory(is_staff=True)):
        assert user.get_all_permissions() == set()
