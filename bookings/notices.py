"""The mails about a booking: what each is to say, and how it is written.

A mail is queued by an INSERT in the transition's own transaction: it is there if and only if that
was committed. What is queued is what the mail is to say, as it was then; `send_mails` writes it
when it sends it. So nobody waits, with seats locked, for texts. A mail that cannot be written is
deferred as one that cannot be sent is, and the log says so: nothing that has happened depends on
what can be said of it.

Anybody can book in the name of an address that is not theirs. So nothing in a mail is free text of
who booked but the name, and that only if no mail program makes a link of it.
"""

import re
from datetime import datetime
from email.utils import make_msgid, parseaddr
from typing import Any

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.db.models import Model
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import dateformat
from mailer.models import Message, email_to_db

from booking_site.prepared import Statement, insert, prepared
from bookings.models import Booking
from slots.models import Doctor, Show, Slot

LINKLIKE = re.compile(r"[/:@\\]|\.\w")
LONGEST_NAME = 80  # of a person, or of a show in the subject


# Of a booking, its slot and whom it is with: all that a mail says.
OF_BOOKING = ("id", "reference", "user_id", "name", "email", "quantity", "labels")
OF_SLOT = ("id", "starts_at", "seating", "doctor_id", "show_id")
OF_DOCTOR = ("id", "name", "time_zone")
OF_SHOW = (*OF_DOCTOR, "venue")


def confirmed(booking: Booking) -> list[Statement]:
    """Queues “you are booked”."""
    return _queue(booking, "confirmed", "Booked")


def moved(booking: Booking, *, before: Slot) -> list[Statement]:
    """Queues the new facts of a confirmed booking; what an earlier mail said no longer holds."""
    was = _when(before) if before.starts_at != booking.slot.starts_at else ""
    return _queue(booking, "moved", "Changed", was=was)


def cancelled(booking: Booking, *, by_staff: bool, reason: str) -> list[Statement]:
    """Queues “cancelled”: as the patient asked, or by the staff, for this reason."""
    reason = reason if by_staff else ""
    return _queue(booking, "cancelled", "Cancelled", by_staff=by_staff, reason=reason)


def slot_cancelled(booking: Booking, *, was_held: bool, reason: str) -> list[Statement]:
    """Queues “called off”, for a booking or a hold of a slot that the staff cancelled."""
    return _queue(booking, "slot_cancelled", "Called off", was_held=was_held, reason=reason)


def _queue(booking: Booking, template: str, what: str, **context: Any) -> list[Statement]:
    """What queues the mail, if there is an address; `booking.slot` has doctor and show."""
    if not booking.email:
        return []
    sender = parseaddr(settings.DEFAULT_FROM_EMAIL)[1]
    name = make_msgid(domain=sender.rpartition("@")[2])
    told = {
        "booking": _values(booking, OF_BOOKING),
        "slot": _values(booking.slot, OF_SLOT),
        "doctor": booking.slot.doctor and _values(booking.slot.doctor, OF_DOCTOR),
        "show": booking.slot.show and _values(booking.slot.show, OF_SHOW),
    }
    data = email_to_db(_Notice(template, what, name, told, context))
    return [_insert_mail(message_data=data, when_added=booking.now)]


def _values(row: Model, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


@prepared
def _insert_mail(**values: Any) -> Any:
    return insert(Message(**values))


class _Notice:
    """In the queue it is what `write` is to be called with; who takes it out gets the mail. (The
    sender takes it out three times, for its log, the address and the mail: a millisecond of its.)
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple:
        return write, self.arguments


class CannotWrite(Exception):
    """A mail has no text. Its cause says why; the queue keeps the mail."""


def write(
    template: str, what: str, name: str, told: dict[str, Any], context: dict[str, Any]
) -> EmailMultiAlternatives:
    """The mail of that (Message-ID) name. For the queue alone: mails that wait there call it so, by
    this name, with these arguments, and may have been queued by an older release.

    Raises CannotWrite: of some other errors the queue would make one that says nothing.
    """
    try:
        booking = Booking(**told["booking"])
        booking.slot = slot = Slot(**told["slot"])
        slot.doctor = told["doctor"] and Doctor(**told["doctor"])
        slot.show = told["show"] and Show(**told["show"])
        return _write(booking, slot, template, what, name, context)
    except Exception as error:
        raise CannotWrite from error


def _write(
    booking: Booking, slot: Slot, template: str, what: str, name: str, context: dict[str, Any]
) -> EmailMultiAlternatives:
    context |= {
        "subject": f"{what}: {_one_line(slot.subject.name)}, {_at(slot.local_start)}",
        "name": _greeted(booking.name),
        "facts": _facts(booking),
        "booking": booking,
        "slot": slot,
        "site_url": settings.SITE_URL,
        "url": settings.SITE_URL + booking.get_absolute_url(),
        "cancel_url": settings.SITE_URL + reverse("cancel", args=[booking.pk]),
        "subject_url": settings.SITE_URL + slot.subject.get_absolute_url(),
    }
    text = render_to_string(f"mail/{template}.txt", context)
    mail = EmailMultiAlternatives(
        context["subject"],
        re.sub(r"\n{3,}", "\n\n", text).strip() + "\n",
        to=[booking.email],
        headers={"Message-ID": name, "Auto-Submitted": "auto-generated"},
    )
    mail.attach_alternative(render_to_string(f"mail/{template}.html", context), "text/html")
    return mail


def _facts(booking: Booking) -> list[tuple[str, str]]:
    """What was booked, line by line."""
    slot, some = booking.slot, booking.quantity > 1
    facts = [
        ("Show" if slot.show else "Appointment", _one_line(slot.subject.name)),
        ("When", _when(slot)),
    ]
    if slot.show and slot.show.venue:
        facts.append(("Where", _one_line(slot.show.venue)))
    if slot.is_numbered:
        facts.append(("Seats" if some else "Seat", ", ".join(booking.labels)))
    elif slot.show or some:
        facts.append(("Places", str(booking.quantity)))
    return [*facts, ("Reference", booking.reference)]


def _when(slot: Slot) -> str:
    """The start on the clock of the venue, with its zone."""
    return f"{_at(slot.local_start)} ({slot.subject.time_zone})"


def _at(local: datetime) -> str:
    return dateformat.format(local, "D j F Y, H:i")


def _greeted(name: str) -> str:
    """The name as a greeting can have it, or nothing."""
    return "" if LINKLIKE.search(name) else _one_line(name)


def _one_line(text: str) -> str:
    """Without line breaks, which would begin a new header, and no longer than a line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1].rstrip() + "…"
