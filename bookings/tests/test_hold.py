import pytest

from booking_site.tests.factories import SlotFactory
from bookings import lifecycle

pytestmark = pytest.mark.django_db(transaction=True)


def test_hold_takes_seats() -> None:
    slot = SlotFactory(places=3)
    booking = lifecycle.hold(slot, quantity=2)
    assert booking.seats.count() == 2
