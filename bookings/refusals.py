"""Records refused attempts (FAILED: sold out, seats taken) without slowing the refusal.

They are buffered in the process and written about once a second by a thread, which wsgi.py starts.
At most BUFFER of them wait; the oldest are dropped. A crash loses what has not been written: that
is accepted.
"""

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from django.db import connection
from django.utils import timezone

from bookings.models import Booking
from slots.models import Slot

if TYPE_CHECKING:
    from bookings.lifecycle import BookingError, Holder

logger = logging.getLogger("holdfast.refusals")

BUFFER = 1000
INTERVAL = 1.0  # seconds

_waiting: deque[Booking] = deque(maxlen=BUFFER)


def record(
    slot: Slot, holder: "Holder", quantity: int, refusal: "BookingError", **details: str
) -> None:
    """Notes a refusal. Costs no query; written soon, if the process lives."""
    _waiting.append(
        Booking(
            slot=slot,
            user=holder.user,
            session_key=holder.session_key,
            quantity=quantity,
            labels=getattr(refusal, "labels", []),
            status=Booking.Status.FAILED,
            failure_reason=refusal.code,
            created_at=timezone.now(),
            **details,
        )
    )


def start_writer() -> None:
    """Starts this process's writer; to be called once, after the process has forked."""
    threading.Thread(target=_write_for_ever, name="refusals", daemon=True).start()


def flush() -> int:
    """Writes what is waiting; returns how many were written. One query."""
    batch = []
    while _waiting:
        batch.append(_waiting.popleft())
    if batch:
        Booking.objects.bulk_create(batch)
    return len(batch)


def _write_for_ever() -> None:
    while True:
        time.sleep(INTERVAL)
        try:
            flush()
        except Exception:  # whatever it is: the next refusals are to be recorded
            logger.warning("refusals lost", exc_info=True)
        finally:
            connection.close()  # back to the pool, or for good
