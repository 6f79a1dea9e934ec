"""The mails about a booking. `bookings.lifecycle` calls each as the last step of its transition.

A mail is queued by an INSERT in the transition's own transaction: it is there if and only if that
was committed, and `send_mails` sends it. So it is written while the seats are locked, which are the
booking's own, so that hardly anybody waits for them: 0.4 ms for text and HTML, and one INSERT.
A mail that cannot be written fails the transition as a whole. None depends on anything but the
booking's own facts, so that would be a bug to be seen at once, not a mail missed in silence.

Anybody can book in the name of an address that is not theirs. So nothing in a mail is free text of
who booked but the name, and that only if no mail program makes a link of it.
"""

import re
from datetime import datetime
from email.utils import make_msgid, parseaddr
from typing import Any

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import dateformat

from bookings.models import Booking
from slots.models import Slot

LINKLIKE = re.compile(r"[/:@\\]|\.\w")
LONGEST_NAME = 80  # of a person, or of a show in the subject


def confirmed(booking: Booking) -> None:
    """Queues “you are booked”."""
    _queue(booking, "confirmed", "Booked")


def moved(booking: Booking, *, before: Slot) -> None:
    """Queues the new facts of a confirmed booking; what an earlier mail said no longer holds."""
    was = _when(before) if before.starts_at != booking.slot.starts_at else ""
    _queue(booking, "moved", "Changed", was=was)


def cancelled(booking: Booking, *, by_staff: bool, reason: str) -> None:
    """Queues “cancelled”: as the patient asked, or by the staff, for this reason."""
    reason = reason if by_staff else ""
    _queue(booking, "cancelled", "Cancelled", by_staff=by_staff, reason=reason)


def slot_cancelled(booking: Booking, *, reason: str) -> None:
    """Queues “called off”, for a booking or a hold of a slot that the staff cancelled."""
    was_held = booking.status == Booking.Status.PENDING
    _queue(booking, "slot_cancelled", "Called off", was_held=was_held, reason=reason)


def _queue(booking: Booking, template: str, what: str, **context: Any) -> None:
    """Queues the mail, if there is an address. One query if `booking.slot` has doctor and show."""
    if not booking.email:
        return
    slot = booking.slot
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
    sender = parseaddr(settings.DEFAULT_FROM_EMAIL)[1]
    text = render_to_string(f"mail/{template}.txt", context)
    mail = EmailMultiAlternatives(
        context["subject"],
        re.sub(r"\n{3,}", "\n\n", text).strip() + "\n",
        to=[booking.email],
        headers={
            "Message-ID": make_msgid(domain=sender.rpartition("@")[2]),
            "Auto-Submitted": "auto-generated",
        },
    )
    mail.attach_alternative(render_to_string(f"mail/{template}.html", context), "text/html")
    mail.send()


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
