"""The list as CSV: exactly what was filtered, harmless in a spreadsheet, at one query."""

import csv
import io
from datetime import datetime
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts.models import User
from accounts.staff_groups import SUPERVISORS
from booking_site.tests.factories import (
    AppointmentFactory,
    SlotFactory,
    StaffFactory,
    UserFactory,
)
from booking_site.tests.races import lapse
from bookings import lifecycle, refusals
from bookings.exports import without_formula
from bookings.lifecycle import Holder, SoldOut
from bookings.models import Booking
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/bookings/booking/"
HEADERS = [
    *("reference", "state", "doctor or show", "starts at", "seats", "quantity"),
    *("name", "e-mail", "phone", "account"),
    *("created at", "confirmed at", "cancelled at", "reason"),
]


@pytest.fixture
def boss(client: Client) -> User:
    user = StaffFactory(group=SUPERVISORS)
    client.force_login(user)
    return user


def export(client: Client, **query: str) -> list[dict[str, str]]:
    """The rows of the file, read as a program would."""
    response = client.get(f"{LIST}export/", query)
    text = body(response).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def body(response: HttpResponse) -> bytes:
    assert response.status_code == 200
    return b"".join(response.streaming_content)


def in_berlin(moment: datetime, slot: Slot) -> str:
    return moment.astimezone(slot.zone).isoformat(timespec="seconds")


def test_export_has_every_column_in_plain_words(client: Client, boss: User) -> None:
    starts = datetime.fromisoformat("2031-07-01T18:00:00+00:00")
    slot = SlotFactory(show__name="Žena, “Müller” & Sön", rows=1, starts_at=starts)
    user = UserFactory(email="ada@account.org")
    ids = [seat.pk for seat in slot.seats.all()[:2]]
    booking = lifecycle.hold(slot, seat_ids=ids, holder=Holder(user=user))
    booking = lifecycle.confirm(
        booking, name="李小龍; Ada", email="ada@example.org", phone="030 12-34"
    )
    booking = lifecycle.cancel(booking, actor=Holder(user=boss), reason='said\n"no"', by_staff=True)
    response = client.get(f"{LIST}export/")
    assert response["Content-Type"] == "text/csv"
    name = f"bookings-{timezone.localdate():%Y-%m-%d}.csv"
    assert response["Content-Disposition"] == f'attachment; filename="{name}"'
    assert body(response).startswith(b"\xef\xbb\xbfreference,state,")
    [row] = export(client)
    assert list(row) == HEADERS
    assert list(row.values()) == [
        *(booking.reference, "cancelled", "Žena, “Müller” & Sön", "2031-07-01T20:00:00+02:00"),
        *("A1, A2", "2", "李小龍; Ada", "ada@example.org", "030 12-34", "ada@account.org"),
        in_berlin(booking.created_at, slot),
        in_berlin(booking.confirmed_at, slot),
        in_berlin(booking.cancelled_at, slot),
        'said\n"no"',
    ]


def test_export_is_the_list_as_filtered_and_searched(client: Client, boss: User) -> None:
    slot = SlotFactory(places=4)
    other = AppointmentFactory()
    ada = lifecycle.confirm(lifecycle.hold(slot, quantity=1), name="Ada")
    bob = lifecycle.confirm(lifecycle.hold(slot, quantity=1), name="Bob")
    held = lifecycle.hold(slot, quantity=1)
    lapsed = lifecycle.hold(other, quantity=1)
    lapse(lapsed)
    with pytest.raises(SoldOut):
        lifecycle.hold(slot, quantity=3)
    refusals.flush()
    refused = Booking.objects.get(failure_reason="sold_out")

    def references(**query: str) -> list[str]:
        return [row["reference"] for row in export(client, **query)]

    assert references() == [b.reference for b in (lapsed, held, bob, ada)]
    assert references(state="confirmed") == [bob.reference, ada.reference]
    assert references(state="held") == [held.reference]
    assert references(state="refused") == [refused.reference]
    assert references(q=ada.reference.lower()) == [ada.reference]
    assert references(q="bob", state="confirmed", slot__id__exact=str(slot.pk)) == [bob.reference]
    assert references(o="5", state="confirmed") == [ada.reference, bob.reference]
    assert references(p="2") == references()  # all of it, not one page
    assert references(q="nobody at all") == []
    assert [(r["state"], r["reason"]) for r in export(client, state="lapsed")] == [
        ("failed", "the hold lapsed")
    ]
    assert [(r["state"], r["reason"]) for r in export(client, state="refused")] == [
        ("failed", "sold out")
    ]


@pytest.mark.parametrize("field", ["name", "email", "phone"])
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "  =", "＝"])
def test_no_cell_is_a_formula(client: Client, boss: User, field: str, start: str) -> None:
    booking = lifecycle.hold(SlotFactory(), quantity=1)
    evil = f"{start}HYPERLINK(“x”)"
    Booking.objects.filter(pk=booking.pk).update(**{field: evil})
    assert export(client)[0]["e-mail" if field == "email" else field] == f"'{evil}"


def test_formula_in_a_show_a_reason_and_an_account_is_text_too(client: Client, boss: User) -> None:
    slot = SlotFactory(show__name="=1+1")
    user = UserFactory(email="=cmd@example.org")
    booking = lifecycle.hold(slot, quantity=1, holder=Holder(user=user))
    lifecycle.cancel(booking, reason="@SUM(A1)")
    [row] = export(client)
    assert (row["doctor or show"], row["account"], row["reason"]) == (
        *("'=1+1", "'=cmd@example.org"),
        "'@SUM(A1)",
    )


@pytest.mark.parametrize("cell", ["Ada", "a=b", "", " Ada", "A1, A2", "’=", 7, None])
def test_other_cells_stay_as_they_are(cell: Any) -> None:
    assert without_formula(cell) == cell


def test_export_needs_its_permission(client: Client) -> None:
    booking = lifecycle.confirm(lifecycle.hold(SlotFactory(), quantity=1), name="Secret Person")
    user = StaffFactory()
    client.force_login(user)
    for answer in (client.get(f"{LIST}export/"), client.post(f"{LIST}export/")):
        assert answer.status_code == 403
        assert booking.reference not in answer.content.decode()
    assert "/export/" not in client.get(LIST).content.decode()
    user.user_permissions.add(Permission.objects.get(codename="export_booking"))
    html = client.get(LIST, {"state": "confirmed", "q": "secret"}).content.decode()
    assert 'href="/admin/bookings/booking/export/?q=secret&amp;state=confirmed"' in html
    assert [row["name"] for row in export(client)] == ["Secret Person"]


def test_empty_list_offers_no_export_and_unknown_filters_lead_back(
    client: Client, boss: User
) -> None:
    assert "/export/" not in client.get(LIST).content.decode()
    assert export(client) == []
    for name in ("nonsense", "user__password", "created_at__year"):
        assert client.get(f"{LIST}export/", {name: "99999"})["Location"] == LIST


@pytest.mark.parametrize("size", [1, 5])
def test_export_costs_one_query_at_any_size(
    client: Client, boss: User, django_assert_num_queries: DjangoAssertNumQueries, size: int
) -> None:
    for _ in range(size):
        slot = AppointmentFactory()
        booking = lifecycle.hold(slot, quantity=1, holder=Holder(user=UserFactory()))
        lifecycle.cancel(booking, reason="ill")
    # The session, the user, two of permissions, and the bookings.
    with django_assert_num_queries(5):
        assert len(export(client)) == size
