"""The life of a booking. Nothing else changes who owns a seat or what status a booking has.

    hold ──► PENDING ──► CONFIRMED ──► CANCELLED
                │  └────────────────►  CANCELLED
                └──► FAILED (expired)

The lock protocol (DESIGN.md gives the reasons):

 1. Each attempt is one durable READ COMMITTED transaction. Errors leave it first; only then are
    they translated, the idempotency key looked up, a refusal recorded.
 2. The booking row is locked first, then seats in id order. `hold` locks seats and inserts its own
    booking; it never writes another's. Seats it takes over from a lapsed hold leave that booking
    PENDING with fewer of them until `expire_due` closes it.
 3. Status, seats and slot are read again after the locks, in new statements.
 4. Named seats: those that are free or lapsed now are locked; fewer than asked is `SeatsTaken`.
 5. Any n seats: SKIP LOCKED over the free ones from a random id on, then over the lapsed ones. Too
    few: the transaction is left, so that nothing is kept while waiting, and the next one waits for
    candidates in id order. `SoldOut` only when an unlocked count says so.
 6. The end of a hold is computed once, from the database's clock; the seats copy it. A hold is live
    while that is after statement_timestamp().
 7. Every status change is a guarded update of exactly one row, and the seats owned are counted; it
    is PostgreSQL that refuses another number. A mismatch raises; it never repairs.
 8. Waiting is bounded. What runs out of time, deadlocks or loses the database is `SlotBusy`, or an
    OperationalError that the site answers with 503.
 9. The same request twice is the same booking: on a refusal with a key, the key is looked up first.
10. A transition that a patient is told of queues its mail in its own transaction; it is written
    when it is sent.

Beside it, `adopt` gives a guest's bookings to the user who has signed in, and `delete_users` leaves
those of an account to nobody: status and seats stay.
"""

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from django.conf import settings
from django.db import (
    IntegrityError,
    InternalError,
    OperationalError,
    connection,
    transaction,
)
from django.db.models import QuerySet
from django.db.models.functions import Now
from psycopg import errors as postgres
from psycopg_pool import PoolTimeout

from accounts.models import User
from booking_site.database import bound_waiting, bounds
from booking_site.prepared import (
    Statement,
    function,
    prepared,
    select,
    send,
    stored,
)
from bookings import notices, refusals
from bookings.errors import (
    AccountGone,
    BookingError,
    BrokenInvariant,
    HoldExpired,
    InvalidRequest,
    KeyReused,
    SeatsTaken,
    SlotBusy,
    SlotClosed,
    SoldOut,
    SweeperRunning,
    TooFew,
    TooManyHolds,
    WrongState,
)
from bookings.models import Booking, BookingEvent, new_reference
from bookings.seat_locks import (
    Seats,
    count_left,
    lock_own,
    lock_seats,
    lock_swap,
)
from bookings.writes import (
    BLANK,
    change_status,
    give_seats,
    insert_booking,
    record,
    release_seats,
    update_one,
    write,
)
from slots import live
from slots.models import Seat, Slot

logger = logging.getLogger("holdfast.lifecycle")
T = TypeVar("T")

# Of waiting for any n seats. With 3, a few in a thousand crowds on a busy machine had somebody who
# was told "busy" with seats left; each round more makes that some forty times rarer.
ROUNDS = 5
SWEEPER_LOCK = 0x401DFA57  # one `expire_due` at a time


@dataclass(frozen=True)
class Holder:
    """Who books: a signed-in user, or a guest known by the key of the browser, or neither."""

    user: User | None = None
    session_key: str = ""

    def __str__(self) -> str:
        return self.user.email if self.user else "guest"


GUEST = Holder()
SYSTEM = "system"


# ── hold ──────────────────────────────────────────────────────────────────────────────────────────


def hold(
    slot: Slot,
    *,
    seat_ids: Sequence[int] | None = None,
    quantity: int | None = None,
    holder: Holder = GUEST,
    idempotency_key: str | None = None,
    name: str = "",
    email: str = "",
    phone: str = "",
) -> Booking:
    """Holds the named seats, or any `quantity`, for HOLD_SECONDS; returns the PENDING booking.

    With an idempotency key that has been used for the same request: that booking, in its present
    state. `booking.is_new` tells the two apart.

    What is returned has all that `Booking.objects.for_page().with_seats()` adds. Of `slot` only the
    key is looked at: what else there is of it is read after the locks.

    Locks the seats it takes. Seven queries, BEGIN and COMMIT included, in two round trips; for a
    holder who is known two more, in one, to count what is held.
    Raises InvalidRequest, SeatsTaken, SoldOut, SlotClosed, SlotGone, TooManyHolds, KeyReused,
    AccountGone, SlotBusy.
    """
    seat_ids, quantity = _check_request(seat_ids, quantity)
    details = {"name": name, "email": email, "phone": phone}
    digest = ""
    if idempotency_key is not None:
        digest = digest_of_hold(slot.pk, seat_ids, quantity, **details)

    def attempt(*, wait: bool) -> Booking:
        first = _limit_live_holds(holder)
        seats, fresh = lock_seats(slot, seat_ids, quantity, wait=wait, first=first)
        _require_open(fresh)
        expires_at = fresh.now + timedelta(seconds=settings.HOLD_SECONDS)
        values = BLANK | {
            "id": uuid.uuid4(),
            "reference": new_reference(),
            "slot_id": fresh.pk,
            "user_id": holder.user and holder.user.pk,
            "session_key": holder.session_key,
            "quantity": quantity,
            "labels": [seat.label for seat in seats],
            "expires_at": expires_at,
            "created_at": fresh.now,
            "idempotency_key": idempotency_key,
            "request_digest": digest,
            **details,
        }
        booking = stored(Booking, values)
        booking.slot, booking.user = fresh, holder.user
        give = give_seats(seats, booking, held_until=expires_at)
        write(insert_booking(**values), *give)
        booking.now = fresh.now
        return _shown(booking, seats)

    try:
        if seat_ids is None and slot.pk in _lately_sold_out:
            _require_left(slot, quantity)
        booking = _with_seats(attempt, slot, quantity, any_seats=seat_ids is None)
        live.tell(booking.slot)
        booking.is_new = True
        return booking
    except BookingError as refusal:
        if earlier := _find_by_key(idempotency_key, holder, digest):
            return earlier
        if isinstance(refusal, SoldOut | SeatsTaken):
            refusals.record(slot, holder, quantity, refusal, **details)
        if isinstance(refusal, SoldOut):
            _lately_sold_out.add(slot.pk)
        raise


# Slots for which this process has refused a hold. Who asks for one of them is told after one look,
# without a transaction, if there still are too few seats: most who come to a sold-out night do.
_lately_sold_out: set[int] = set()


def _require_left(slot: Slot, quantity: int) -> None:
    """Raises SoldOut as `_with_seats` would, after its last look. One query."""
    left = count_left(slot, quantity, None)
    if left < quantity:
        raise SoldOut(left)
    _lately_sold_out.discard(slot.pk)


def _check_request(
    seat_ids: Sequence[int] | None, quantity: int | None
) -> tuple[list[int] | None, int]:
    """Seat ids in order (or None) and how many seats; InvalidRequest if they make no sense."""
    if (seat_ids is None) == (quantity is None):
        raise InvalidRequest("Name the seats, or say how many: one of the two.")
    if seat_ids is not None:
        if len(set(seat_ids)) != len(seat_ids):
            raise InvalidRequest("The same seat is named twice.")
        seat_ids, quantity = sorted(seat_ids), len(seat_ids)
    if quantity < 1:
        raise InvalidRequest("Choose at least one seat.")
    if quantity > settings.MAX_SEATS_PER_BOOKING:
        raise InvalidRequest(
            f"At most {settings.MAX_SEATS_PER_BOOKING} seats can be booked at once."
        )
    return seat_ids, quantity


def digest_of_hold(
    slot_id: int,
    seat_ids: Sequence[int] | None = None,
    quantity: int | None = None,
    *,
    name: str = "",
    email: str = "",
    phone: str = "",
) -> str:
    """What a booking keeps of its request: the same for the same one, and for no other."""
    if seat_ids is not None:
        seat_ids, quantity = sorted(seat_ids), len(seat_ids)
    return _digest([slot_id, seat_ids, quantity, name, email, phone])


def _digest(request: list[Any]) -> str:
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()


# A form of a page may be sent again after its key was used: an old tab, or the Back button. What it
# asks for then has a key of its own, the same each time it is sent, that all can find.
MOST_KEYS = 10  # of one form


def next_key(key: str, digest: str, made: Booking | None) -> str:
    """The key for a request of that digest instead of one that others have used: another request
    (None), or this one, for a booking `made` that is over.
    """
    return _digest([key, digest, str(made.pk) if made else None])


def _limit_live_holds(holder: Holder) -> list[Statement]:
    """Raises TooManyHolds. Locks the holder, first of all, so that two requests count in turn.

    Returns what is to be sent before the next statement: the bounds, if nothing was counted.
    """
    if holder.user is None and not holder.session_key:
        return [bounds()]
    if holder.user:
        mine = {"user": holder.user.pk, "session_key": None}
    else:
        mine = {"user": None, "session_key": holder.session_key}
    most, age = settings.MAX_LIVE_HOLDS, settings.HOLD_MAX_SECONDS
    *_, held = send(bounds(), _lock_holder(holder), _live_holds(most, age, **mine))
    if len(held) >= most:
        raise TooManyHolds
    return []


@prepared
def _live_holds(most: int, age: int, *, user: int | None, session_key: str | None) -> Any:
    """So many of those live holds. `age` is HOLD_MAX_SECONDS, which `live` looks at."""
    mine = Booking.objects.of_holder(user=user, session_key=session_key or "")
    return select(mine.live().order_by().values_list("pk")[:most])


def _lock_holder(holder: Holder) -> Statement:
    """Until the transaction ends, this user (or guest's browser) holds nothing else meanwhile."""
    return _lock_number(number=_number_of(holder))


@prepared
def _lock_number(*, number: int) -> Any:
    return function("SELECT pg_advisory_xact_lock(%s)", number)


def _number_of(holder: Holder) -> int:
    """The number of the holder's advisory lock."""
    whose = f"user {holder.user.pk}" if holder.user else f"browser {holder.session_key}"
    return int.from_bytes(hashlib.sha256(whose.encode()).digest()[:8], signed=True)


def is_holding(holder: Holder) -> bool:
    """Whether a hold of theirs is under way this instant. If not, those that have begun have ended,
    and the next statement sees what they did. One query, which waits for nothing.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock_shared(%s)", [_number_of(holder)])
        return not cursor.fetchone()[0]


def is_changing(booking_id: uuid.UUID) -> bool:
    """Whether the booking is being changed this instant; as `is_holding`."""
    bookings = Booking.objects.filter(pk=booking_id)
    with transaction.atomic(durable=True):
        locked = bookings.select_for_update(skip_locked=True, no_key=True).values_list("pk")
        return not locked and bookings.exists()


def _find_by_key(key: str | None, holder: Holder, digest: str) -> Booking | None:
    """The booking made with this key, if any. Raises KeyReused if it was another request's."""
    if key is None:
        return None
    found = Booking.objects.for_page().with_seats()
    booking = found.filter(user=holder.user, idempotency_key=key).first()
    if booking is None:
        return None
    if booking.request_digest != digest:
        raise KeyReused
    booking.is_new = False
    return booking


# ── confirm, extend, cancel, reschedule ───────────────────────────────────────────────────────────


def confirm(
    booking: Booking,
    *,
    name: str | None = None,
    email: str | None = None,
    phone: str | None = None,
    actor: Holder | str = GUEST,
) -> Booking:
    """PENDING → CONFIRMED: the seats are sold. A confirmed booking is returned unchanged;
    `has_changed` of what is returned tells the two apart.

    Details given here replace those given before, an empty text too; None keeps them.
    Locks the booking, then its seats. Queues a mail.
    Raises HoldExpired, WrongState, SlotClosed, SlotBusy.
    """

    def attempt() -> Booking | None:
        current, seats = _lock(booking)
        if current.state == Booking.Status.CONFIRMED:
            return None
        _require_hold(current, "confirmed")
        _require_open(current.slot)
        details = {"name": name, "email": email, "phone": phone}
        given = {field: value for field, value in details.items() if value is not None}
        changes = change_status(
            current,
            BookingEvent.Action.CONFIRM,
            Booking.Status.CONFIRMED,
            actor=actor,
            confirmed_at=current.now,
            **given,
        )
        seated = give_seats(seats, current, held_until=None)
        write(*changes, *seated, *notices.confirmed(current))
        live.tell(current.slot)
        return _shown(current, seats)

    return _transact(attempt, binds=True) or _unchanged(booking)


def extend(booking: Booking) -> Booking:
    """Holds the seats for HOLD_SECONDS from now, but no longer than HOLD_MAX_SECONDS in all.

    Locks the booking, then its seats. Raises HoldExpired, WrongState, SlotClosed, SlotBusy.
    """

    def attempt() -> Booking:
        current, seats = _lock(booking)
        _require_hold(current, "extended")
        _require_open(current.slot)
        wished = current.now + timedelta(seconds=settings.HOLD_SECONDS)
        cap = current.created_at + timedelta(seconds=settings.HOLD_MAX_SECONDS)
        expires_at = max(current.expires_at, min(wished, cap))
        held = give_seats(seats, current, held_until=expires_at)
        write(update_one(current, expires_at=expires_at), *held)
        return _shown(current, seats)

    return _transact(attempt, binds=True)


def cancel(
    booking: Booking, *, actor: Holder | str = GUEST, reason: str = "", by_staff: bool = False
) -> Booking:
    """PENDING or CONFIRMED → CANCELLED, and the seats are free. A cancelled one is unchanged;
    `has_changed` of what is returned tells the two apart.

    Patients can cancel until the slot starts, staff always. Queues a mail if it was confirmed.
    Locks the booking, then its seats. Raises HoldExpired, WrongState, SlotClosed, SlotBusy.
    """
    attempt = partial(_cancel, booking, actor, reason, by_staff=by_staff)
    return _transact(attempt, binds=True) or _unchanged(booking)


def release(booking: Booking, *, actor: Holder | str, reason: str = "") -> Booking:
    """PENDING → CANCELLED, and the seats are free: `cancel` for holds alone.

    For staff, who decide on what they saw a while ago: what its holder has confirmed since stays.
    Locks the booking, then its seats. Raises HoldExpired, WrongState, SlotBusy.
    """
    attempt = partial(_cancel, booking, actor, reason, by_staff=True, only_held=True)
    return _transact(attempt, binds=True) or _unchanged(booking)


def _cancel(
    booking: Booking,
    actor: Holder | str,
    reason: str,
    *,
    by_staff: bool,
    of_slot: Slot | None = None,
    only_held: bool = False,
) -> Booking | None:
    """One attempt of `cancel` or `release`; returns what it cancelled, or None if it changed
    nothing.

    A booking that is not (or no longer) `of_slot` is left alone: its patient moved it away.
    """
    current, seats = _lock(booking)
    was = current.state
    if was == Booking.Status.CANCELLED:
        return None
    if of_slot and current.slot_id != of_slot.pk:
        return None
    if only_held:
        _require_hold(current, "released")
    if current.status == Booking.Status.FAILED:
        raise WrongState("This booking has ended already, so it cannot be cancelled.")
    if was != Booking.Status.CONFIRMED:
        _require_hold(current, "cancelled")
    has_begun = current.slot.starts_at <= current.now
    if was == Booking.Status.CONFIRMED and has_begun and not by_staff:
        raise SlotClosed("It has begun, so it can no longer be cancelled here.")
    changes = change_status(
        current,
        BookingEvent.Action.CANCEL,
        Booking.Status.CANCELLED,
        actor=actor,
        reason=reason,
        cancelled_at=current.now,
    )
    mail: list[Statement] = []
    if of_slot:
        was_held = was == Booking.Status.PENDING
        mail = notices.slot_cancelled(current, was_held=was_held, reason=reason)
    elif was == Booking.Status.CONFIRMED:
        mail = notices.cancelled(current, by_staff=by_staff, reason=reason)
    write(*changes, *release_seats(seats, current), *mail)
    if not of_slot:  # whoever calls off a slot tells of it once
        live.tell(current.slot)
    return _shown(current, seats)


def reschedule(
    booking: Booking,
    *,
    slot: Slot,
    seat_ids: Sequence[int] | None = None,
    quantity: int | None = None,
    actor: Holder | str = GUEST,
) -> Booking:
    """Moves a live hold or a confirmed booking to other seats, of this or of another slot.

    One swap: the old seats are given up only when the new ones are owned. Some may be kept, and
    their number may change. A hold keeps its end; who had confirmed gets a mail.
    Locks the booking, then old and new seats. Raises what `hold` does, HoldExpired and WrongState.
    """
    seat_ids, quantity = _check_request(seat_ids, quantity)

    def attempt(*, wait: bool) -> Booking:
        current = _lock_booking(booking)
        if current.state != Booking.Status.CONFIRMED:
            _require_hold(current, "rescheduled")
        old, new, fresh = lock_swap(current, slot, seat_ids, quantity, wait=wait)
        current = _read_again(current, old)
        before, was = current.slot, ", ".join(current.labels)
        if before.starts_at <= current.now:
            raise SlotClosed("It has begun, so it can no longer be moved.")
        _require_open(fresh)
        if current.state == Booking.Status.CONFIRMED:
            held_until = None
        else:
            held_until = current.expires_at
        given_up = release_seats([seat for seat in old if seat not in new], current)
        labels = [seat.label for seat in new]
        moved = update_one(current, slot=fresh.pk, quantity=quantity, labels=labels)
        current.slot = fresh
        mail: list[Statement] = []
        if current.status == Booking.Status.CONFIRMED and old != new:
            mail = notices.moved(current, before=before)
        write(
            *given_up,
            moved,
            *give_seats([seat for seat in new if seat not in old], current, held_until=held_until),
            record(
                current,
                BookingEvent.Action.RESCHEDULE,
                current.status,
                actor,
                f"from slot {before.pk}: {was}"[:500],
            ),
            *mail,
        )
        live.tell(before, fresh)
        return _shown(current, new)

    return _with_seats(attempt, slot, quantity, any_seats=seat_ids is None, own=booking)


# ── adopt, delete_users ───────────────────────────────────────────────────────────────────────────


def adopt(user: User, session_key: str) -> int:
    """What this browser booked as a guest is the user's from now on.

    Returns how many of them hold or own seats; what failed or was cancelled comes along, too. A
    booking whose idempotency key the user has used as well gives up its own.

    Locks the holder, so that no hold of theirs with such a key comes in between, then the bookings
    in id order, and no seats: whoever has a booking waits for seats only, so no circle can form.
    Seven queries, BEGIN and COMMIT included; five if there is nothing. Raises AccountGone
    and SlotBusy.
    """
    if not session_key:
        return 0

    def attempt() -> int:
        send(_lock_holder(Holder(user=user)))
        guests = Booking.objects.with_state().filter(session_key=session_key, user=None)
        locked = guests.order_by("pk").select_for_update(of=("self",), no_key=True)
        states = dict(locked.values_list("pk", "state"))
        if not states:
            return 0
        mine = Booking.objects.filter(pk__in=states, user=None)
        used = Booking.objects.filter(user=user, idempotency_key__isnull=False)
        mine.filter(idempotency_key__in=used.values("idempotency_key")).update(
            idempotency_key=None, request_digest=""
        )
        rows = mine.update(user=user)
        _expect(rows == len(states), f"adopted {rows} of {len(states)} locked bookings")
        owning = (Booking.Status.PENDING, Booking.Status.CONFIRMED)
        return sum(state in owning for state in states.values())

    return _transact(attempt)


def delete_users(users: QuerySet[User]) -> None:
    """Deletes accounts with nothing to come; their past bookings are nobody's then, and give up
    their idempotency keys, which a guest may have used as well.

    All of them or none, also within a transaction of the admin's. Locks the holders in id order, so
    that they hold and adopt nothing meanwhile, then the users. Raises WrongState, SlotBusy.
    """
    with _translated(), transaction.atomic():
        bound_waiting()
        users = User.objects.filter(pk__in=[user.pk for user in users]).order_by("pk")
        for user in users:
            send(_lock_holder(Holder(user=user)))
        # FOR UPDATE, which the foreign key of a booking waits for: the rows themselves go.
        list(users.select_for_update().values_list("pk"))
        if kept := users.filter(pk__in=Booking.objects.to_come().values("user")).first():
            raise WrongState(f"Nothing was deleted: {kept.email} has bookings to come.")
        Booking.objects.filter(user__in=users).update(idempotency_key=None)
        users.delete()


# ── expire_due, cancel_slot ───────────────────────────────────────────────────────────────────────


def expire_due(*, batch_size: int = 500) -> tuple[int, int]:
    """Closes one batch of lapsed holds; returns how many holds and how many seats it released.

    Housekeeping: to everybody else they were free already. Locks due bookings that nobody else has
    locked, then their seats. Raises SweeperRunning if another one is at work, and OperationalError.
    """
    with transaction.atomic(durable=True):
        bound_waiting()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [SWEEPER_LOCK])
            if not cursor.fetchone()[0]:
                raise SweeperRunning
        # Without their slots: with old statistics PostgreSQL would join all that are due to them,
        # to sort them, instead of taking the first from the index.
        due = list(
            Booking.objects.due()
            .order_by("expires_at")
            .select_for_update(of=("self",), no_key=True, skip_locked=True)[:batch_size]
        )
        live.tell(*Slot.objects.filter(pk__in={booking.slot_id for booking in due}))
        ids = [booking.pk for booking in due]
        seats = list(Seat.objects.filter(booking__in=ids).lock())
        released = Seat.objects.filter(pk__in=[seat.pk for seat in seats], booking__in=ids).update(
            booking=None, held_until=None
        )
        expired = (
            Booking.objects.due()
            .filter(pk__in=ids)
            .update(status=Booking.Status.FAILED, failure_reason=Booking.FailureReason.EXPIRED)
        )
        _expect(expired == len(ids), f"expired {expired} of {len(ids)} locked bookings")
        _expect(released == len(seats), f"released {released} of {len(seats)} locked seats")
        BookingEvent.objects.bulk_create(
            BookingEvent(
                booking=booking,
                action=BookingEvent.Action.EXPIRE,
                from_status=Booking.Status.PENDING,
                to_status=Booking.Status.FAILED,
                actor=SYSTEM,
            )
            for booking in due
        )
        return expired, released


def cancel_slot(slot: Slot, *, actor: Holder | str, reason: str = "") -> list[Booking]:
    """Takes the slot off the calendar and cancels its bookings; returns those it cancelled.

    First `cancelled_at` and the reason are committed. Then all seats are locked once and let go:
    whoever had read the slot as open had locked a seat by then, and has finished when the last lock
    is granted. Then each booking is cancelled by the ordinary path, and its mail is queued. A busy
    one does not stop the others: SlotBusy is raised when they are done. What that, or a kill
    half-way, leaves is finished by calling it again, as `expire_holds` does.
    """

    def close() -> None:
        Slot.objects.filter(pk=slot.pk, cancelled_at=None).update(
            cancelled_at=Now(), cancel_reason=reason
        )

    def wait_for_holds() -> None:
        list(Seat.objects.filter(slot=slot).values_list("pk").lock())

    _transact(close)
    live.tell(slot)
    busy = None
    try:
        _transact(wait_for_holds)
    except SlotBusy as error:
        busy = error
    cancelled = []
    open_states = [Booking.Status.PENDING, Booking.Status.CONFIRMED]
    for booking in Booking.objects.filter(slot=slot, status__in=open_states).order_by("created_at"):
        end = partial(_cancel, booking, actor, reason, by_staff=True, of_slot=slot)
        try:
            if ended := _transact(end, binds=True):
                cancelled.append(ended)
        except (HoldExpired, WrongState):
            continue  # it ended by itself in the meantime
        except SlotBusy as error:
            busy = error
    live.tell(slot)
    if busy:
        raise busy
    return cancelled


def finish_cancelled_slots() -> list[Booking]:
    """Cancels what a `cancel_slot` left, for the reason given then; returns those bookings.

    Raises SlotBusy when it has been to all such slots.
    """
    left = Slot.objects.filter(
        cancelled_at__isnull=False, bookings__status=Booking.Status.CONFIRMED
    ).distinct()
    cancelled, busy = [], None
    for slot in left:
        try:
            cancelled += cancel_slot(slot, actor=SYSTEM, reason=slot.cancel_reason)
        except SlotBusy as error:
            busy = error
    if busy:
        raise busy
    return cancelled


# ── The steps of the protocol ─────────────────────────────────────────────────────────────────────


def _transact(attempt: Callable[[], T], *, binds: bool = False) -> T:
    """Runs one attempt in a transaction of its own; what fails is translated outside of it.

    `binds`: it bounds its waiting itself, in the round trip of its first statement.
    """
    with _translated(), transaction.atomic(durable=True):
        if not binds:
            send(bounds())
        return attempt()


def _with_seats(
    attempt: Callable[..., T],
    slot: Slot,
    quantity: int,
    *,
    any_seats: bool,
    own: Booking | None = None,
) -> T:
    """Runs an attempt that needs seats; for any n seats again, waiting, while enough seem left.

    What the booking `own` has of this slot already counts as left.
    """
    if not any_seats:
        return _transact(partial(attempt, wait=True), binds=True)
    for wait in (False, *[True] * ROUNDS):
        try:
            return _transact(partial(attempt, wait=wait), binds=True)
        except TooFew:
            # Outside the transaction: what it had locked is free for others while we look and wait.
            left = count_left(slot, quantity, own)
            if left < quantity:
                raise SoldOut(left) from None
    raise SlotBusy


# A named constraint translates to one error; any other surfaces as it is.
CONSTRAINT_ERRORS: dict[str, type[BookingError]] = {
    "booking_key_is_unique_for_user": KeyReused,
    "booking_key_is_unique_among_guests": KeyReused,
    "bookings_booking_user_id_834dfc23_fk_accounts_user_id": AccountGone,  # as migrated
    "booking_reference_is_unique": SlotBusy,  # one in a million million: try another name
}
# Waiting took too long, or would never have ended. A lost connection is not among them: lost during
# COMMIT, or the writes that it goes along with, its outcome is unknown, and the site says so.
BUSY_ERRORS = (
    postgres.LockNotAvailable,
    postgres.QueryCanceled,
    postgres.DeadlockDetected,
    postgres.IdleInTransactionSessionTimeout,  # an InternalError; this process had stalled
    PoolTimeout,
)


@contextmanager
def _translated() -> Iterator[None]:
    """Database errors that a caller can do something about become BookingErrors."""
    try:
        yield
    except IntegrityError as error:
        diagnosis = getattr(error.__cause__, "diag", None)
        refusal = CONSTRAINT_ERRORS.get(getattr(diagnosis, "constraint_name", None))
        if refusal is None:
            raise
        raise refusal from error
    except (OperationalError, InternalError) as error:
        if not isinstance(error.__cause__, BUSY_ERRORS):
            raise
        logger.warning("busy: %s", type(error.__cause__).__name__)
        raise SlotBusy from error


def _lock(booking: Booking) -> tuple[Booking, Seats]:
    """Locks the booking, then the seats that it holds or has booked, and reads it after that, as
    `for_page`; one round trip.

    The first of an attempt; bounds its waiting. Raises BrokenInvariant if the booking owns another
    number of seats than it says.
    """
    lock = bounds(), _lock_one_booking(pk=booking.pk), lock_own(booking=booking.pk)
    *_, seats, found = send(*lock, _read_booking(pk=booking.pk))
    return _require_own(found, seats), seats


def _lock_booking(booking: Booking) -> Booking:
    """Locks the booking and reads it after that, for who locks its seats with others.

    The first of an attempt; bounds its waiting.
    """
    steps = bounds(), _lock_one_booking(pk=booking.pk), _read_booking(pk=booking.pk)
    *_, found = send(*steps)
    if not found:
        raise Booking.DoesNotExist
    return found[0]


def _read_again(booking: Booking, seats: Seats) -> Booking:
    """The locked booking as it is now that its seats are locked, too. One query.

    Raises HoldExpired if the hold lapsed while waiting for them, and BrokenInvariant.
    """
    was = booking.state
    [found] = send(_read_booking(pk=booking.pk))
    current = _require_own(found, seats)
    if current.state != was:
        raise HoldExpired
    return current


@prepared
def _lock_one_booking(*, pk: uuid.UUID) -> Any:
    booking = Booking.objects.filter(pk=pk).select_for_update(of=("self",), no_key=True)
    return select(booking.values_list("pk"))


@prepared
def _read_booking(*, pk: uuid.UUID) -> Any:
    return select(Booking.objects.for_page().filter(pk=pk))


def _require_own(found: list[Booking], seats: Seats) -> Booking:
    """The booking as just read, if there is one. Raises BrokenInvariant if it is held or sold and
    these locked seats are not as many as it says.
    """
    if not found:
        raise Booking.DoesNotExist
    [current] = found
    current.slot.now = current.now
    is_owner = current.state in (Booking.Status.PENDING, Booking.Status.CONFIRMED)
    _expect(
        not is_owner or len(seats) == current.quantity,
        f"booking {current.pk} owns {len(seats)} of its {current.quantity} seats",
    )
    return current


def _require_open(slot: Slot) -> None:
    """Raises SlotClosed, saying why, unless the slot as just read can be booked."""
    if slot.is_bookable(slot.now):
        return
    if slot.cancelled_at:
        raise SlotClosed("This has been called off, so it cannot be booked.")
    if slot.opens_at and slot.now < slot.opens_at:
        raise SlotClosed("Booking has not opened yet.")
    raise SlotClosed("Booking has closed.")


def _require_hold(booking: Booking, verb: str) -> None:
    """Raises HoldExpired or WrongState unless the booking, as just read, is a live hold."""
    if booking.state == Booking.Status.PENDING:
        return
    if booking.reason == Booking.FailureReason.EXPIRED:
        raise HoldExpired
    raise WrongState(
        f"This booking is {Booking.Status(booking.state).label}, so it cannot be {verb}."
    )


def _expect(holds: bool, breach: str) -> None:
    if not holds:
        raise BrokenInvariant(breach)


def _shown(booking: Booking, seats: Seats) -> Booking:
    """The booking that an attempt has changed, with what `for_page` and `with_seats` would add."""
    booking.state, booking.reason = booking.status, booking.failure_reason
    ends = booking.expires_at
    booking.seconds_left = ends and (ends - booking.now).total_seconds()
    booking.booked_seats = [{"id": seat.pk, "label": seat.label} for seat in seats]
    booking.has_changed = True
    return booking


def _unchanged(booking: Booking) -> Booking:
    """The booking as it is. One query."""
    booking = Booking.objects.for_page().with_seats().get(pk=booking.pk)
    booking.has_changed = False
    return booking
