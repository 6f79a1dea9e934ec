"""Nonsense in the addresses and forms of the office's lists."""

import pytest
from django.test import Client

from booking_site.tests.factories import AppointmentFactory, ShowFactory, SlotFactory, UserFactory
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)

SLOTS, DOCTORS, SHOWS = "/admin/slots/slot/", "/admin/slots/doctor/", "/admin/slots/show/"
BOOKINGS = "/admin/bookings/booking/"
USERS, GROUPS = "/admin/accounts/user/", "/admin/auth/group/"
NO_FILTER = ["The list cannot be filtered like that. This is the list without filters."]


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


def told(response: object) -> list[str]:
    return [str(message) for message in response.context["messages"]]


@pytest.mark.parametrize(
    "address",
    [
        BOOKINGS + "?labels=x",
        BOOKINGS + "?labels__contains=x",
        BOOKINGS + "?email=ada@example.org",
        BOOKINGS + "?created_at__year=99999",
        BOOKINGS + "?created_at__year=-1",
        BOOKINGS + "?status__in=%00",
        USERS + "?last_login__year=99999",
        USERS + "?password__startswith=pbkdf2",
        GROUPS + "?permissions=1",
        SLOTS + "?starts_at__year=9999",
        SLOTS + "?starts_at__year=9999&starts_at__month=12",
        SLOTS + "?starts_at__year=9999&starts_at__month=12&starts_at__day=31",
        SLOTS + "?bookings__email=ada@example.org",
        DOCTORS + "?specialization=%00",
        DOCTORS + "?time_zone=%00",
        SHOWS + "?venue=%00",
    ],
)
def test_filter_that_cannot_be_is_a_message(client: Client, address: str) -> None:
    SlotFactory(rows=1, seats_per_row=2)
    AppointmentFactory()
    response = client.get(address, follow=True)
    assert response.redirect_chain == [(address.partition("?")[0] + "?e=1", 302)]
    assert told(response) == NO_FILTER


@pytest.mark.parametrize(
    "address",
    [
        BOOKINGS + "?state=held&day=today&created_at__gte=2026-01-01+00:00:00%2B00:00",
        BOOKINGS + "?slot__id__exact=1&slot__doctor__id__exact=1&slot__show__id__exact=1",
        BOOKINGS + "?user__id__exact=1&created_at__isnull=True&q=ada&o=5&p=1",
        SLOTS + "?when=past&state=open&doctor__id__exact=1&show__isnull=True",
        SLOTS + "?starts_at__year=2026&starts_at__month=2&starts_at__day=28",
        DOCTORS + "?specialization=Cardiology",
        SHOWS + "?venue__isnull=True",
        USERS + "?is_active__exact=1&groups__id__exact=1&groups__isnull=True&is_staff__exact=0",
    ],
)
def test_filters_of_the_lists_are_allowed(client: Client, address: str) -> None:
    assert client.get(address).status_code == 200


@pytest.mark.parametrize("chosen", ["abc", "\x00", "", "1e5", "9" * 30])
@pytest.mark.parametrize(
    ("page", "action", "name"),
    [
        (SLOTS, "delete_selected", "slots"),
        (SLOTS, "cancel_selected", "slots"),
        (DOCTORS, "delete_selected", "doctors"),
        (SHOWS, "delete_selected", "shows"),
        (BOOKINGS, "cancel_selected", "bookings"),
        (USERS, "delete_selected", "users"),
        (GROUPS, "delete_selected", "groups"),
    ],
)
def test_action_on_what_is_none_is_a_message(
    client: Client, page: str, action: str, name: str, chosen: str
) -> None:
    slot = SlotFactory(show=ShowFactory(), rows=1, seats_per_row=2)
    data = {"action": action, "_selected_action": [slot.pk, chosen], "post": "yes"}
    assert told(client.post(page, data, follow=True)) == [f"Choose {name} from the list."]
    assert Slot.objects.count() == 1
