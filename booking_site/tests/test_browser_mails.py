"""The mails as a mail program shows them, on a small phone and on a desk, by day and by night."""

import pytest
from playwright.sync_api import Browser

from booking_site.tests.accessibility import problems_of
from booking_site.tests.factories import ShowFactory, SlotFactory
from booking_site.tests.mails import queued_mails
from bookings import lifecycle

pytestmark = pytest.mark.django_db(transaction=True)

WORD = "Donaudampfschifffahrtsgesellschaftskapitän"


def test_mails_are_accessible_and_fit_their_screen(browser: Browser) -> None:
    show = ShowFactory(name=WORD * 2, venue=f"{WORD}, {WORD}")
    slot, later = SlotFactory(show=show, rows=2), SlotFactory(show=show, rows=2)
    for name in ("Ada Lovelace", WORD * 2):
        booking = lifecycle.hold(slot, quantity=10)
        lifecycle.confirm(booking, name=name, email="ada@example.org")
        lifecycle.reschedule(booking, slot=later, quantity=5)
    lifecycle.cancel(booking, by_staff=True, reason=f"{WORD * 3}\nis ill.")
    lifecycle.cancel_slot(later, actor="desk", reason="Gale.")
    found = []
    for width in (360, 800):
        page = browser.new_page(viewport={"width": width, "height": 740})
        for mail in queued_mails():
            page.set_content(mail.alternatives[0][0])
            found += [(mail.subject, width, problem) for problem in problems_of(page)]
        page.close()
    assert len(queued_mails()) == 6
    assert found == []
