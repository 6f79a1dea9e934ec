"""Which mail a transition queues, what it says, and that it is there if and only if it happened."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage as Parsed
from typing import Any

import pytest
from django.core.mail import EmailMultiAlternatives
from django.db import IntegrityError
from django.utils import timezone
from mailer.models import Message

from booking_site.prepared import Statement
from booking_site.tests.factories import (
    AppointmentFactory,
    DoctorFactory,
    ShowFactory,
    SlotFactory,
    UserFactory,
)
from booking_site.tests.mails import queued_mails
from booking_site.tests.races import kill_before, lapse, race, tally
from bookings import lifecycle, notices, writes
from bookings.errors import BrokenInvariant
from bookings.lifecycle import Holder, WrongState
from bookings.models import Booking
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)

ADA = {"name": "Ada Lovelace", "email": "ada@example.org"}
AT = datetime(2030, 1, 15, 19, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _address_of_the_site(settings: Any) -> None:
    settings.SITE_URL = "https://book.example.org"
    settings.DEFAULT_FROM_EMAIL = "Holdfast <no-reply@book.example.org>"


@pytest.fixture
def slot() -> Slot:
    """Six numbered seats at 20:30 in Berlin."""
    show = ShowFactory(name="The Tide Clock", venue="Studio, Harbour Theatre")
    return SlotFactory(show=show, starts_at=AT, rows=1, seats_per_row=6)


def hold(slot: Slot, *labels: str, **details: Any) -> Booking:
    ids = slot.seats.filter(label__in=labels).values_list("pk", flat=True)
    return lifecycle.hold(slot, seat_ids=list(ids), **details)


def book(slot: Slot, *labels: str, **details: Any) -> Booking:
    """Confirmed, with a mail."""
    return lifecycle.confirm(hold(slot, *labels), **ADA | details)


def subjects() -> list[str]:
    return [mail.subject for mail in queued_mails()]


def text(mail: EmailMultiAlternatives) -> str:
    assert (mail.to, mail.cc, mail.bcc) == (["ada@example.org"], [], [])
    return mail.body


def html(mail: EmailMultiAlternatives) -> str:
    [(content, kind)] = mail.alternatives
    assert kind == "text/html"
    return content


def parsed(mail: EmailMultiAlternatives) -> Parsed:
    """As it arrives."""
    return message_from_bytes(mail.message().as_bytes(), policy=policy.default)


# ── What they say ─────────────────────────────────────────────────────────────────────────────────


def test_confirmed_says_what_when_where_and_how_to_cancel(slot: Slot) -> None:
    booking = lifecycle.confirm(hold(slot, "A2", "A3"), **ADA)
    [mail] = queued_mails()
    assert mail.subject == "Booked: The Tide Clock, Tue 15 January 2030, 20:30"
    assert text(mail) == (
        f"""\
Hello Ada Lovelace,

You are booked. Show the reference at the door.

Show: The Tide Clock
When: Tue 15 January 2030, 20:30 (Europe/Berlin)
Where: Studio, Harbour Theatre
Seats: A2, A3
Reference: {booking.reference}

Your booking:
https://book.example.org/bookings/{booking.pk}/

You cannot come? There you can choose another date. Or cancel the booking here; you are asked
once more before anything happens:
https://book.example.org/bookings/{booking.pk}/cancel

Whoever has these addresses can see and cancel the booking: keep this mail to yourself.

--
Holdfast
https://book.example.org/
"""
    )


def test_confirmed_appointment_of_a_user(slot: Slot) -> None:
    appointment = AppointmentFactory(
        doctor=DoctorFactory(name="Dr. Mei Tanaka", time_zone="America/New_York"), starts_at=AT
    )
    booking = lifecycle.hold(appointment, quantity=1, holder=Holder(user=UserFactory()), **ADA)
    lifecycle.confirm(booking)
    [mail] = queued_mails()
    assert mail.subject == "Booked: Dr. Mei Tanaka, Tue 15 January 2030, 14:30"
    assert text(mail) == (
        f"""\
Hello Ada Lovelace,

You are booked. Show the reference at the desk.

Appointment: Dr. Mei Tanaka
When: Tue 15 January 2030, 14:30 (America/New_York)
Reference: {booking.reference}

Your booking:
https://book.example.org/bookings/{booking.pk}/

You cannot come? There you can choose another time. Or cancel the booking here; you are asked
once more before anything happens:
https://book.example.org/bookings/{booking.pk}/cancel

The booking is in an account: log in to open these pages.

--
Holdfast
https://book.example.org/
"""
    )


def test_moved_says_what_holds_now(slot: Slot) -> None:
    later = SlotFactory(show=slot.show, starts_at=AT.replace(month=7), places=3)
    booking = book(slot, "A1")
    lifecycle.reschedule(booking, slot=later, quantity=2)
    mail = queued_mails()[-1]
    assert mail.subject == "Changed: The Tide Clock, Mon 15 July 2030, 21:30"
    assert text(mail).partition("Your booking:\n")[0] == (
        f"""\
Hello Ada Lovelace,

Your booking has been changed: it was for Tue 15 January 2030, 20:30 (Europe/Berlin). \
This is what holds now:

Show: The Tide Clock
When: Mon 15 July 2030, 21:30 (Europe/Berlin)
Where: Studio, Harbour Theatre
Places: 2
Reference: {booking.reference}

"""
    )


def test_moved_to_other_seats_only_says_which(slot: Slot) -> None:
    booking = book(slot, "A1")
    seat = slot.seats.get(label="A5")
    lifecycle.reschedule(booking, slot=slot, seat_ids=[seat.pk])
    mail = queued_mails()[-1]
    assert "\n\nYour booking has been changed. This is what holds now:\n\n" in text(mail)
    assert "\nSeat: A5\n" in text(mail)


FACTS = """
Show: The Tide Clock
When: Tue 15 January 2030, 20:30 (Europe/Berlin)
Where: Studio, Harbour Theatre
Seat: A1
Reference: {reference}

Other dates:
https://book.example.org/shows/{show}/

--
Holdfast
https://book.example.org/
"""


@pytest.mark.parametrize(
    ("change", "subject", "says"),
    [
        (
            lambda booking: lifecycle.cancel(booking, reason="win a prize at evil.example"),
            "Cancelled",
            "Your booking has been cancelled, as you asked.",
        ),
        (
            lambda booking: lifecycle.cancel(booking, by_staff=True),
            "Cancelled",
            "We are sorry: your booking had to be cancelled.",
        ),
        (
            lambda booking: lifecycle.cancel(booking, by_staff=True, reason="The seat\nis broken."),
            "Cancelled",
            "We are sorry: your booking had to be cancelled.\n\nThe reason: The seat\nis broken.",
        ),
        (
            lambda booking: lifecycle.cancel_slot(booking.slot, actor="desk"),
            "Called off",
            "We are sorry: this had to be called off. Your booking is cancelled.",
        ),
        (
            lambda booking: lifecycle.cancel_slot(booking.slot, actor="desk", reason="Gale <9>."),
            "Called off",
            "We are sorry: this had to be called off. Your booking is cancelled.\n\n"
            "The reason: Gale <9>.",
        ),
    ],
)
def test_cancelled_says_by_whom_and_why(
    slot: Slot, change: Callable[[Booking], object], subject: str, says: str
) -> None:
    booking = book(slot, "A1")
    change(booking)
    mail = queued_mails()[-1]
    assert mail.subject == f"{subject}: The Tide Clock, Tue 15 January 2030, 20:30"
    facts = FACTS.format(reference=booking.reference, show=slot.show_id)
    assert text(mail) == f"Hello Ada Lovelace,\n\n{says}\n{facts}"
    reason = says.partition("The reason: ")[2].replace("<", "&lt;").replace(">", "&gt;")
    shown = re.findall(r'<p class="reason">The reason: (.*)</p>', html(mail))
    assert shown == ([reason.replace("\n", "<br>")] if reason else [])


def test_html_says_the_same_with_whole_links_and_nothing_from_elsewhere(slot: Slot) -> None:
    name = "<b>Ada</b> & Bob"
    later = SlotFactory(show=slot.show, places=3)
    booking = book(slot, "A1", name=name)
    lifecycle.reschedule(booking, slot=later, quantity=1)
    lifecycle.cancel(booking)
    book(slot, "A2", name=name)
    lifecycle.cancel_slot(slot, actor="desk")
    mails = queued_mails()
    assert [mail.subject.partition(":")[0] for mail in mails] == (
        ["Booked", "Changed", "Cancelled", "Booked", "Called off"]
    )
    for mail in mails:
        page = html(mail)
        assert f"<title>{mail.subject}</title>" in page
        for label, value in re.findall(r"^(\w+): (.+)$", text(mail), re.MULTILINE):
            cells = rf'<th scope="row">{label}</th>\s*<td>{re.escape(value)}</td>'
            assert label == "Your" or re.search(cells, page)
        links = re.findall(r'href="([^"]*)"', page)
        assert set(links) == set(re.findall(r"https://\S+", text(mail)))
        assert re.findall(r"src=|url\(|@import|style=|<link|<script|\{\{|\{%", page) == []
        assert "Ada</b>" not in page


def test_headers_say_that_a_machine_wrote(slot: Slot) -> None:
    for label in ("A1", "A2", "A3"):
        book(slot, label)
    mails = [parsed(mail) for mail in queued_mails()]
    assert {mail["Auto-Submitted"] for mail in mails} == {"auto-generated"}
    assert {mail["From"] for mail in mails} == {"Holdfast <no-reply@book.example.org>"}
    ids = {mail["Message-ID"] for mail in mails}
    assert len(ids) == 3
    assert {name.rpartition("@")[2] for name in ids} == {"book.example.org>"}


@pytest.mark.parametrize(
    ("name", "greeting"),
    [
        ("Ada", "Hello Ada,"),
        ("", "Hello,"),
        ("Zoë 李小龍 Ó Súilleabháin", "Hello Zoë 李小龍 Ó Súilleabháin,"),
        ("Ada\r\nBcc: all@example.org", "Hello,"),
        ("Ada\n\nYou have won\u2028a prize", "Hello Ada You have won a prize,"),
        ("Dr. J. R. R. Tolkien", "Hello Dr. J. R. R. Tolkien,"),
        ("Win at https://evil.example", "Hello,"),
        ("Win at evil.example", "Hello,"),
        ("x" * 150, f"Hello {'x' * 79}…,"),
        ("{{ booking }}{% now %}", "Hello {{ booking }}{% now %},"),
    ],
)
def test_name_is_a_greeting_and_nothing_else(slot: Slot, name: str, greeting: str) -> None:
    lifecycle.confirm(hold(slot, "A1", name=name, email="ada@example.org"))
    [mail] = queued_mails()
    assert text(mail).partition("\n")[0] == greeting
    arrived = parsed(mail)
    assert [arrived["To"], arrived["Bcc"], arrived["Cc"]] == ["ada@example.org", None, None]
    assert arrived.get_body(("plain",)).get_content() == text(mail)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("Two\r\nBcc: all@example.org", "Two Bcc: all@example.org"),
        ("Ein Käfig voller Narren 🎭", "Ein Käfig voller Narren 🎭"),
        ("long " * 40, f"{'long ' * 15}long…"),
    ],
)
def test_subject_is_one_line_whatever_the_name(slot: Slot, name: str, subject: str) -> None:
    slot.show.name = name
    slot.show.save(update_fields=["name"])
    book(slot, "A1")
    [mail] = queued_mails()
    arrived = parsed(mail)["Subject"].strip()  # where it is folded, a space is left
    assert arrived == f"Booked: {subject}, Tue 15 January 2030, 20:30"
    assert parsed(mail)["Bcc"] is None


# ── Whether there is one ──────────────────────────────────────────────────────────────────────────


def test_same_transition_twice_is_one_mail(slot: Slot) -> None:
    booking = hold(slot, "A1")
    for _ in range(2):
        lifecycle.confirm(booking, **ADA)
    for _ in range(2):
        lifecycle.cancel(booking)
    with pytest.raises(WrongState):
        lifecycle.confirm(booking, **ADA)
    assert [subject.partition(":")[0] for subject in subjects()] == ["Booked", "Cancelled"]


def test_same_seats_again_are_no_change(slot: Slot) -> None:
    booking = book(slot, "A1", "A2")
    lifecycle.reschedule(booking, slot=slot, seat_ids=[seat.pk for seat in booking.seats.all()])
    assert len(queued_mails()) == 1


def test_without_an_address_there_is_no_mail(slot: Slot) -> None:
    booking = lifecycle.confirm(hold(slot, "A1"), name="Ada")
    lifecycle.reschedule(booking, slot=SlotFactory(), quantity=1)
    lifecycle.cancel(booking)
    lifecycle.confirm(hold(slot, "A1"), name="Ada")
    assert len(lifecycle.cancel_slot(slot, actor="desk")) == 1
    assert queued_mails() == []


def test_holds_are_nothing_to_tell(slot: Slot) -> None:
    lifecycle.cancel(hold(slot, "A1", **ADA))
    lifecycle.cancel(hold(slot, "A1", **ADA), by_staff=True, reason="no")
    lifecycle.extend(hold(slot, "A2", **ADA))
    lifecycle.reschedule(hold(slot, "A3", **ADA), slot=SlotFactory(), quantity=1)
    lapse(hold(slot, "A4", **ADA))
    lifecycle.expire_due()
    assert queued_mails() == []


def test_slot_called_off_is_told_to_all_who_have_or_hold_it(slot: Slot) -> None:
    book(slot, "A1")
    lifecycle.cancel(book(slot, "A2"))
    hold(slot, "A3", email="held@example.org")
    hold(slot, "A4")
    lapse(hold(slot, "A5", email="lapsed@example.org"))
    before = len(queued_mails())
    lifecycle.cancel_slot(slot, actor="desk", reason="Gale.")
    told = {mail.to[0]: mail for mail in queued_mails()[before:]}
    assert set(told) == {"ada@example.org", "held@example.org"}
    assert {mail.subject.partition(":")[0] for mail in told.values()} == {"Called off"}
    says = "this had to be called off. What you were holding is not booked.\n\nThe reason: Gale.\n"
    assert says in told["held@example.org"].body
    lifecycle.cancel_slot(slot, actor="desk", reason="Gale.")
    assert len(queued_mails()) == before + 2


def test_cancellation_of_a_slot_that_was_killed_is_told_later(slot: Slot) -> None:
    book(slot, "A1")
    Slot.objects.filter(pk=slot.pk).update(cancelled_at=timezone.now())
    assert len(lifecycle.finish_cancelled_slots()) == 1
    assert text(queued_mails()[-1]).splitlines()[2] == (
        "We are sorry: this had to be called off. Your booking is cancelled."
    )


def test_transition_raced_by_ten_is_one_mail(slot: Slot) -> None:
    booking = hold(slot, "A1")
    results = race(*[lambda: lifecycle.confirm(booking, **ADA)] * 10)
    assert tally(results) == {Booking: 10}
    results = race(*[lambda: lifecycle.cancel(booking)] * 10)
    assert tally(results) == {Booking: 10}
    assert [subject.partition(":")[0] for subject in subjects()] == ["Booked", "Cancelled"]


# ── With the transition or not at all ─────────────────────────────────────────────────────────────


def test_mail_of_what_is_rolled_back_is_gone(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    original = notices.confirmed

    def fail_afterwards(booking: Booking) -> list[Statement]:
        nothing = writes._free_seats(pks=(0,), booking=booking.pk)
        return [*original(booking), nothing]

    monkeypatch.setattr(notices, "confirmed", fail_afterwards)
    booking = hold(slot, "A1")
    with pytest.raises(BrokenInvariant):
        lifecycle.confirm(booking, **ADA)
    booking.refresh_from_db()
    assert (booking.status, booking.email) == ("PENDING", "")
    assert queued_mails() == []


def test_mail_that_cannot_be_queued_undoes_the_transition(
    slot: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = notices._insert_mail(message_data=None, when_added=AT)
    monkeypatch.setattr(notices, "_queue", lambda *_, **__: [nothing])
    booking = hold(slot, "A1")
    with pytest.raises(IntegrityError):
        lifecycle.confirm(booking, **ADA)
    booking.refresh_from_db()
    assert (booking.status, booking.email, queued_mails()) == ("PENDING", "", [])


def test_says_what_was_then_though_it_is_written_later(slot: Slot) -> None:
    booking = book(slot, "A1")
    slot.show.name = "Another"
    slot.show.save(update_fields=["name"])
    lifecycle.reschedule(booking, slot=slot, quantity=2)
    booked, moved = queued_mails()
    assert booked.subject == "Booked: The Tide Clock, Tue 15 January 2030, 20:30"
    assert "\nSeat: A1\n" in text(booked)
    assert moved.subject == "Changed: Another, Tue 15 January 2030, 20:30"
    ids = [queued_mails()[0].extra_headers["Message-ID"] for _ in range(2)]
    assert ids[0] == ids[1]  # a mail that is sent again is the same mail


def test_killed_before_the_commit_leaves_neither_and_after_it_both(slot: Slot) -> None:
    booking = hold(slot, "A1")

    def confirm() -> None:
        lifecycle.confirm(booking, **ADA)
        assert not Booking.objects.filter(reference="done").exists()

    assert kill_before(confirm, 'INSERT INTO "mailer_message"')
    booking.refresh_from_db()
    assert (booking.status, queued_mails()) == ("PENDING", [])
    assert kill_before(confirm, '"reference" =')  # when all is done
    booking.refresh_from_db()
    assert (booking.status, len(queued_mails())) == ("CONFIRMED", 1)


# As an earlier release has left it in the queue: what `write` is called, and with what.
QUEUED = """
gASV4QEAAAAAAACMEGJvb2tpbmdzLm5vdGljZXOUjAV3cml0ZZSTlCiMCWNvbmZpcm1lZJSMBkJv
b2tlZJSMDzwxQGV4YW1wbGUub3JnPpR9lCiMB2Jvb2tpbmeUfZQojAJpZJSMBHV1aWSUjARVVUlE
lJOUKYGUfZSMA2ludJRLB3NijAlyZWZlcmVuY2WUjAg3SzNNOVFYVJSMB3VzZXJfaWSUTowEbmFt
ZZSMA0FkYZSMBWVtYWlslIwPYWRhQGV4YW1wbGUub3JnlIwIcXVhbnRpdHmUSwGMBmxhYmVsc5Rd
lIwCQTGUYXWMBHNsb3SUfZQoaAlLB4wJc3RhcnRzX2F0lIwIZGF0ZXRpbWWUjAhkYXRldGltZZST
lEMKB+4BDxMeAAAAAJRoHowIdGltZXpvbmWUk5RoHowJdGltZWRlbHRhlJOUSwBLAEsAh5RSlIWU
UpSGlFKUjAdzZWF0aW5nlIwITlVNQkVSRUSUjAlkb2N0b3JfaWSUTowHc2hvd19pZJRLA3WMBmRv
Y3RvcpROjARzaG93lH2UKGgJSwNoE4wOVGhlIFRpZGUgQ2xvY2uUjAl0aW1lX3pvbmWUjA1FdXJv
cGUvQmVybGlulIwFdmVudWWUjAZTdHVkaW+UdXV9lHSUUpQu
"""


def test_mail_that_an_earlier_release_queued_is_written() -> None:
    mail = Message(message_data=QUEUED.lstrip()).email
    assert mail.subject == "Booked: The Tide Clock, Tue 15 January 2030, 20:30"
    assert "\nSeat: A1\nReference: 7K3M9QXT\n" in text(mail)
    assert mail.extra_headers["Message-ID"] == "<1@example.org>"
