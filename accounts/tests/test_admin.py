"""Accounts and groups in the office: nobody gives, or takes over, rights that they do not have."""

import re
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from accounts.models import User
from accounts.staff_groups import FRONT_DESK, PROGRAMME, SUPERVISORS, create_staff_groups
from booking_site.tests.factories import SlotFactory, StaffFactory, UserFactory
from booking_site.tests.races import assert_sound, lapse, start
from bookings import lifecycle
from bookings.errors import AccountGone
from bookings.lifecycle import Holder
from bookings.models import Booking
from slots.models import Slot

pytestmark = pytest.mark.django_db

USERS = "/admin/accounts/user/"
GROUPS = "/admin/auth/group/"
PASSWORD = "another horse battery staple"


@pytest.fixture
def boss(client: Client) -> User:
    """A supervisor, logged in: may change accounts, and is no superuser."""
    user = StaffFactory(email="boss@example.org", group=SUPERVISORS)
    client.force_login(user)
    return user


def url_of(user: User, page: str = "change") -> str:
    return f"{USERS}{user.pk}/{page}/"


def form_of(user: User, **changes: Any) -> dict[str, Any]:
    """What the page of an account sends: all there is, changed so."""
    groups = list(user.groups.values_list("pk", flat=True))
    form = {"email": user.email, "name": user.name, "groups": groups, "is_active": "on"}
    form |= {"is_staff": "on"} if user.is_staff else {}
    return {name: value for name, value in (form | changes).items() if value is not None}


def rights(user: User) -> tuple:
    user = User.objects.get(pk=user.pk)
    groups = sorted(user.groups.values_list("name", flat=True))
    own = sorted(user.user_permissions.values_list("codename", flat=True))
    return (user.email, user.is_active, user.is_staff, user.is_superuser, groups, own)


def password_works(user: User) -> bool:
    return User.objects.get(pk=user.pk).check_password(PASSWORD)


# ── nobody rises above themselves ─────────────────────────────────────────────────────────────────


def test_supervisor_makes_somebody_staff_with_groups_of_their_own_reach(
    client: Client, boss: User
) -> None:
    person = UserFactory(name="New Clerk")
    desk = Group.objects.get(name=FRONT_DESK)
    answer = client.post(url_of(person), form_of(person, is_staff="on", groups=[desk.pk]))
    assert answer.status_code == 302
    assert rights(person) == (person.email, True, True, False, [FRONT_DESK], [])


def test_nobody_becomes_superuser_or_gets_rights_one_by_one(client: Client, boss: User) -> None:
    person = UserFactory()
    everything = list(Permission.objects.values_list("pk", flat=True))
    tampered = {"is_superuser": "on", "user_permissions": everything}
    for user in (person, boss):
        before = rights(user)
        html = client.get(url_of(user)).content.decode()
        assert 'name="is_superuser"' not in html
        assert 'name="user_permissions"' not in html
        client.post(url_of(user), form_of(user, **tampered))
        assert rights(user) == before


def test_nobody_changes_their_own_standing(client: Client, boss: User) -> None:
    before = rights(boss)
    html = client.get(url_of(boss)).content.decode()
    assert re.findall(r'name="(is_active|is_staff|groups)"', html) == []
    all_groups = list(Group.objects.values_list("pk", flat=True))
    client.post(url_of(boss), form_of(boss, name="Chief", groups=all_groups, is_active=None))
    assert rights(boss) == before
    boss.refresh_from_db()
    assert boss.name == "Chief"  # the rest is theirs to change


def test_group_that_may_more_than_oneself_is_not_given(client: Client, boss: User) -> None:
    lords = Group.objects.create(name="Lords")
    lords.permissions.set(Permission.objects.filter(codename__in=["delete_user", "view_booking"]))
    person = UserFactory()
    html = client.get(url_of(person)).content.decode()
    choices = re.findall(r'<option value="\d+">([\w ]+)</option>', html)
    assert choices == [FRONT_DESK, PROGRAMME, SUPERVISORS]
    answer = client.post(url_of(person), form_of(person, groups=[lords.pk]))
    assert answer.status_code == 200
    assert "is not one of the available choices" in answer.content.decode()
    assert rights(person)[4] == []


def mighty(kind: str) -> User:
    """Somebody who may more than a supervisor."""
    if kind == "superuser":
        return UserFactory(is_staff=True, is_superuser=True)
    user = UserFactory(is_staff=True, is_active=kind != "deactivated")
    right = Permission.objects.get(codename="delete_user")
    if kind == "by group":
        group = Group.objects.create(name="Lords")
        group.permissions.add(right)
        user.groups.add(group)
    else:
        user.user_permissions.add(right)
    return user


@pytest.mark.parametrize("kind", ["superuser", "by permission", "by group", "deactivated"])
def test_account_that_may_more_is_out_of_reach(client: Client, boss: User, kind: str) -> None:
    boss.user_permissions.add(Permission.objects.get(codename="delete_booking"))
    other = mighty(kind)
    before = rights(other)
    page = client.get(url_of(other))
    assert page.status_code == 200  # to look at
    assert 'name="email"' not in page.content.decode()
    attempts = [
        client.post(url_of(other), form_of(other, email="mine@example.org", is_active="on")),
        client.get(url_of(other, "password")),
        client.post(
            url_of(other, "password"),
            {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD},
        ),
        client.post(url_of(other, "delete"), {"post": "yes"}),
    ]
    assert [attempt.status_code for attempt in attempts] == [403] * 4
    assert (rights(other), password_works(other)) == (before, False)


def test_account_that_may_more_is_not_deleted_among_others(client: Client, boss: User) -> None:
    # With every right that an application has, but not a superuser.
    names = ["delete_user", "view_user", "delete_logentry", "delete_emailaddress"]
    boss.user_permissions.add(*Permission.objects.filter(codename__in=names))
    other = UserFactory(is_superuser=True)
    nobody = UserFactory()
    data = {
        "action": "delete_selected",
        "_selected_action": [other.pk, nobody.pk, boss.pk],
        "post": "yes",
    }
    assert client.post(USERS, data).status_code == 403
    assert User.objects.filter(pk__in=[other.pk, nobody.pk, boss.pk]).count() == 3
    assert client.post(USERS, data | {"_selected_action": [nobody.pk]}).status_code == 302
    assert not User.objects.filter(pk=nobody.pk).exists()
    assert client.post(url_of(boss, "delete"), {"post": "yes"}).status_code == 403


def test_password_of_a_clerk_is_set_by_the_supervisor(client: Client, boss: User) -> None:
    clerk = StaffFactory()
    form = {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    assert client.post(url_of(clerk, "password"), form).status_code == 302
    assert password_works(clerk)


def test_superuser_gives_everything(client: Client) -> None:
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    person = UserFactory()
    right = Permission.objects.get(codename="delete_user")
    form = form_of(person, is_staff="on", is_superuser="on", user_permissions=[right.pk])
    assert client.post(url_of(person), form).status_code == 302
    assert rights(person) == (person.email, True, True, True, [], ["delete_user"])


def test_groups_are_changed_within_ones_own_rights_alone(client: Client, boss: User) -> None:
    names = ["view_group", "add_group", "change_group", "delete_group"]
    boss.user_permissions.add(*Permission.objects.filter(codename__in=names))
    lords = Group.objects.create(name="Lords")
    lords.permissions.add(Permission.objects.get(codename="delete_user"))
    desk = Group.objects.get(name=FRONT_DESK)
    size = desk.permissions.count()
    forbidden = Permission.objects.get(codename="delete_user")
    allowed = Permission.objects.get(codename="export_booking")

    form = {"name": "Lords", "permissions": [allowed.pk]}
    assert client.post(f"{GROUPS}{lords.pk}/change/", form).status_code == 403
    assert client.post(f"{GROUPS}{lords.pk}/delete/", {"post": "yes"}).status_code == 403
    form = {"name": FRONT_DESK, "permissions": [forbidden.pk]}
    answer = client.post(f"{GROUPS}{desk.pk}/change/", form)
    assert "is not one of the available choices" in answer.content.decode()
    assert desk.permissions.count() == size
    form = {"name": "Counters", "permissions": [allowed.pk]}
    assert client.post(f"{GROUPS}add/", form).status_code == 302
    assert list(Group.objects.get(name="Counters").permissions.all()) == [allowed]


# ── deleting ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def superuser(client: Client) -> User:
    user = UserFactory(is_staff=True, is_superuser=True)
    client.force_login(user)
    return user


def delete(client: Client, *users: User) -> str:
    """Deletes the only one, or several in the list; returns the page, if there is one."""
    if len(users) == 1:
        return client.post(url_of(users[0], "delete"), {"post": "yes"}).content.decode()
    data = {
        "action": "delete_selected",
        "_selected_action": [user.pk for user in users],
        "post": "yes",
    }
    return client.post(USERS, data).content.decode()


@pytest.mark.parametrize("state", ["held", "confirmed"])
def test_account_with_bookings_to_come_stays_and_the_page_says_why(
    client: Client, superuser: User, state: str
) -> None:
    user, other = UserFactory(email="ada@example.org"), UserFactory()
    booking = lifecycle.hold(SlotFactory(), quantity=1, holder=Holder(user=user))
    if state == "confirmed":
        lifecycle.confirm(booking)
    for html in (
        client.get(url_of(user, "delete")).content.decode(),
        delete(client, user),
        delete(client, user, other),
    ):
        assert f'<a href="{url_of(user)}">ada@example.org</a>: 1 to come' in html
        assert "cancel these bookings first, or open the account and untick “Active”" in html
        assert other.email not in html
    assert User.objects.filter(pk__in=[user.pk, other.pk]).count() == 2


def test_account_with_nothing_to_come_is_deleted_and_its_past_stays(
    client: Client, superuser: User
) -> None:
    user, other = UserFactory(email="ada@example.org"), UserFactory()
    slot = SlotFactory()
    key = "a key that a guest has used as well"
    holder = Holder(user=user)
    past = lifecycle.confirm(
        lifecycle.hold(slot, quantity=1, holder=holder, idempotency_key=key), actor=holder
    )
    lifecycle.hold(slot, quantity=1, idempotency_key=key)
    lapsed = lifecycle.hold(slot, quantity=1, holder=holder)
    lapse(lapsed)
    lifecycle.cancel(lifecycle.hold(slot, quantity=1, holder=holder))
    end = timezone.now() - timedelta(hours=1)
    Slot.objects.filter(pk=slot.pk).update(starts_at=end - timedelta(hours=1), ends_at=end)
    delete(client, user, other)
    assert not User.objects.filter(pk__in=[user.pk, other.pk]).exists()
    past.refresh_from_db()
    assert (past.user, past.status) == (None, "CONFIRMED")
    assert past.events.get().actor == "ada@example.org"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["page", "list"])
def test_account_that_books_while_it_is_being_deleted_stays(
    client: Client, superuser: User, how: str
) -> None:
    """Looked at, nothing was to come."""
    user, other, slot = UserFactory(email="ada@example.org"), UserFactory(), SlotFactory()
    deleted = [user] if how == "page" else [user, other]
    holding = start(
        lambda: lifecycle.hold(slot, quantity=1, holder=Holder(user=user)),
        pause_before='INSERT INTO "bookings_booking"',
    )
    holding.wait_until_paused()
    deleting = start(lambda: delete(client, *deleted))
    deleting.wait_until_blocked()
    holding.resume()
    assert holding.outcome().user == user
    deleting.outcome()
    html = client.get(USERS).content.decode()
    assert "Nothing was deleted: ada@example.org has bookings to come." in html
    assert User.objects.filter(pk__in=[user.pk, other.pk]).count() == 2
    assert not LogEntry.objects.exists()
    assert Booking.objects.get().user == user


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("what", ["hold", "adopt"])
def test_account_that_was_deleted_while_it_books_is_told_so(
    client: Client, superuser: User, what: str
) -> None:
    user, slot = UserFactory(), SlotFactory()
    lifecycle.hold(slot, quantity=1, holder=Holder(session_key="a browser"))
    deleting = start(lambda: delete(client, user), pause_before='DELETE FROM "accounts_user"')
    deleting.wait_until_paused()
    if what == "hold":
        late = start(lambda: lifecycle.hold(slot, quantity=1, holder=Holder(user=user)))
    else:
        late = start(lambda: lifecycle.adopt(user, "a browser"))
    late.wait_until_blocked()
    deleting.resume()
    deleting.outcome()
    assert isinstance(late.outcome(), AccountGone)
    assert not User.objects.filter(pk=user.pk).exists()
    assert Booking.objects.get().user is None
    assert_sound()


@pytest.mark.django_db(transaction=True)
def test_hold_by_an_account_that_was_deleted_is_a_refusal_and_no_crash(client: Client) -> None:
    user, slot = UserFactory(), SlotFactory()
    client.force_login(user)
    holding = start(
        lambda: client.post(f"/slots/{slot.pk}/hold", {"quantity": "1"}),
        pause_before="pg_advisory_xact_lock",
    )
    holding.wait_until_paused()
    lifecycle.delete_users(User.objects.filter(pk=user.pk))
    holding.resume()
    response = holding.outcome()
    assert response.status_code == 409
    assert "Your account has just been deleted, so nothing was booked." in response.content.decode()
    assert not Booking.objects.exists()


def test_page_of_an_account_links_to_its_bookings(client: Client, boss: User) -> None:
    user = UserFactory()
    slot = SlotFactory()
    lifecycle.hold(slot, quantity=1, holder=Holder(user=user))
    lifecycle.cancel(lifecycle.hold(slot, quantity=1, holder=Holder(user=user)))
    link = f'<a href="/admin/bookings/booking/?user__id__exact={user.pk}">1 to come, 2 in all</a>'
    assert link in client.get(url_of(user)).content.decode()
    nosy = UserFactory(is_staff=True)
    nosy.user_permissions.add(Permission.objects.get(codename="view_user"))
    client.force_login(nosy)
    html = client.get(url_of(user)).content.decode()
    assert (user.email in html, "to come" in html) == (True, False)


def test_own_password_is_changed_on_the_page_with_limits(client: Client, boss: User) -> None:
    for answer in (
        client.get("/admin/password_change/"),
        client.post("/admin/password_change/", {"old_password": "a guess"}),
    ):
        assert (answer.status_code, answer["Location"]) == (302, "/accounts/password/change/")


@pytest.mark.parametrize("size", [1, 5])
def test_list_of_accounts_costs_the_same_at_any_size(
    client: Client, boss: User, django_assert_num_queries: DjangoAssertNumQueries, size: int
) -> None:
    for _ in range(size):
        StaffFactory()
    # The session, the user, two of permissions; the groups to filter by, how many, and the page.
    with django_assert_num_queries(7):
        html = client.get(USERS, {"q": "example.org", "is_staff__exact": "1"}).content.decode()
    assert html.count("field-email") == size + 1


# ── the groups that staff start with ──────────────────────────────────────────────────────────────


def may(group: str) -> set[str]:
    permissions = Permission.objects.filter(group__name=group)
    return set(permissions.values_list("codename", flat=True))


def test_groups_are_made_with_the_database() -> None:
    look = {"view_doctor", "view_show", "view_slot", "view_seat", "view_booking"}
    desk = {"confirm_booking", "cancel_booking", "release_booking"}
    lead = {"export_booking", "view_user", "add_user", "change_user"}
    assert set(Group.objects.values_list("name", flat=True)) == {
        FRONT_DESK,
        PROGRAMME,
        SUPERVISORS,
    }
    assert may(FRONT_DESK) == look | desk
    assert may(PROGRAMME) >= look | {"add_slot", "change_show", "delete_doctor"}
    assert may(PROGRAMME) & (desk | lead) == set()
    assert may(SUPERVISORS) == may(FRONT_DESK) | may(PROGRAMME) | lead


def test_what_an_office_changed_of_its_groups_stays() -> None:
    Group.objects.get(name=PROGRAMME).delete()
    desk = Group.objects.get(name=FRONT_DESK)
    desk.permissions.set(Permission.objects.filter(codename="view_booking"))
    desk.name = "Counter"
    desk.save(update_fields=["name"])
    call_command("migrate", verbosity=0)
    assert set(Group.objects.values_list("name", flat=True)) == {"Counter", SUPERVISORS}
    assert may("Counter") == {"view_booking"}


def test_groups_wait_for_their_permissions() -> None:
    Group.objects.all().delete()
    from django.db.migrations.loader import MigrationLoader

    early = MigrationLoader(connection).project_state([("bookings", "0002_booking_trigger")])
    Permission.objects.filter(codename="confirm_booking").delete()
    create_staff_groups(early.apps, using="default")
    assert Group.objects.count() == 0
    create_staff_groups(apps, using="default")
    assert Group.objects.count() == 3


@pytest.mark.parametrize(
    ("group", "sees"),
    [
        (FRONT_DESK, {"slots/doctor", "slots/show", "slots/slot", "bookings/booking"}),
        (PROGRAMME, {"slots/doctor", "slots/show", "slots/slot", "bookings/booking"}),
        (
            SUPERVISORS,
            {"slots/doctor", "slots/show", "slots/slot", "bookings/booking", "accounts/user"},
        ),
    ],
)
def test_index_shows_each_group_what_it_may_see(client: Client, group: str, sees: set[str]) -> None:
    client.force_login(StaffFactory(group=group))
    html = client.get("/admin/").content.decode()
    assert set(re.findall(r'href="/admin/(\w+/\w+)/"', html)) - {"slots/seat"} == sees
    assert client.get(USERS).status_code == (200 if group == SUPERVISORS else 403)
    assert client.get(GROUPS).status_code == 403


def test_demo_has_a_front_desk(settings: Settings, tmp_path: Any) -> None:
    settings.DATA_DIR = tmp_path
    call_command("load_demo", stdout=StringIO())
    user = User.objects.get(email="desk@example.org")
    assert (user.is_staff, user.is_superuser) == (True, False)
    assert [group.name for group in user.groups.all()] == [FRONT_DESK]
    assert user.check_password((tmp_path / "demo_password").read_text())
    assert Booking.objects.filter(status="CONFIRMED").exists()
