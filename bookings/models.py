"""Bookings, and the history of what became of them. Only `bookings.lifecycle` writes here."""

import secrets
import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.postgres.expressions import ArraySubquery
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Case, Count, F, Func, OuterRef, Q, Value, When
from django.db.models.functions import Extract, JSONObject, Now, Upper
from django.urls import reverse

from slots.models import Seat, Slot

# Crockford's base 32: nothing that is misread on paper or misheard on the telephone.
REFERENCE_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_reference() -> str:
    """A short name for the desk. Not a secret: the id is the key, this is the name."""
    number = secrets.randbits(40)
    return "".join(REFERENCE_ALPHABET[number >> bits & 31] for bits in range(0, 40, 5))


class BookingQuerySet(models.QuerySet["Booking"]):
    def with_state(self) -> "BookingQuerySet":
        """Adds `state` and `reason`: the status and failure reason as they are this instant.

        A lapsed PENDING reads as FAILED, `expired`, before any sweeper has seen it.
        Also adds `seconds_left` of a hold, by the database's clock.
        """
        return self.annotate(
            state=Case(
                When(BOOKING_HAS_LAPSED, then=Value(Booking.Status.FAILED)),
                default=F("status"),
                output_field=models.CharField(),
            ),
            reason=Case(
                When(BOOKING_HAS_LAPSED, then=Value(Booking.FailureReason.EXPIRED)),
                default=F("failure_reason"),
                output_field=models.CharField(),
            ),
            seconds_left=Extract(F("expires_at") - Now(), "epoch"),
        )

    def in_state(self, state: str) -> "BookingQuerySet":
        """Those of which `with_state` says so; asked such that an index can tell."""
        if state == Booking.Status.PENDING:
            return self.filter(status=state, expires_at__gt=Now())
        if state == Booking.Status.FAILED:
            return self.filter(Q(status=state) | BOOKING_HAS_LAPSED)
        return self.filter(status=state)

    def with_seats(self) -> "BookingQuerySet":
        """Adds `booked_seats`, `[{"id": 1, "label": "A1"}]`: found by their labels, so also of what
        is over. One look into an index for each seat, however large the hall.
        """
        is_labelled = Func(
            F("label"),
            OuterRef("labels"),
            arg_joiner=" = ANY(",
            template="%(expressions)s)",
            output_field=models.BooleanField(),
        )
        seats = Seat.objects.filter(is_labelled, slot=OuterRef("slot"))
        shown = JSONObject(id="id", label="label")
        return self.annotate(booked_seats=ArraySubquery(seats.order_by("id").values(json=shown)))

    def live(self) -> "BookingQuerySet":
        """Holds of a person that have not lapsed. Indexes: booking_by_user, booking_by_browser.

        Not simply those PENDING: with statistics from before a rush PostgreSQL would look for them
        with booking_due, through all live holds there are. None is older than HOLD_MAX_SECONDS.
        """
        ended = [Booking.Status.CONFIRMED, Booking.Status.CANCELLED, Booking.Status.FAILED]
        recent = Now() - timedelta(seconds=settings.HOLD_MAX_SECONDS)
        return self.filter(created_at__gte=recent, expires_at__gt=Now()).exclude(status__in=ended)

    def due(self) -> "BookingQuerySet":
        """Holds that have lapsed and are still PENDING. Index: booking_due."""
        return self.filter(BOOKING_HAS_LAPSED)

    def of_holder(self, *, user: Any, session_key: str) -> "BookingQuerySet":
        """What this user, or this browser, booked."""
        mine = Q()
        if user is not None:
            mine |= Q(user=user)
        if session_key:
            # Not empty: said so that the partial index serves, whatever the key will be.
            mine |= Q(session_key=session_key, user=None) & ~Q(session_key="")
        return self.filter(mine) if mine else self.none()

    def for_page(self) -> "BookingQuerySet":
        """A booking with its state, `now`, slot, doctor and show: one query."""
        return self.with_state().annotate(now=Now()).select_related("slot__doctor", "slot__show")

    def for_list(self, group: str) -> "BookingQuerySet":
        """As `for_page`, those of one of the BOOKING_GROUPS of a person's list, in its order."""
        condition, *order = BOOKING_GROUPS[group]
        return self.for_page().filter(condition).order_by(*order, "id")

    def count_groups(self) -> dict[str, int]:
        """How many there are in each of the BOOKING_GROUPS: one query."""
        return self.aggregate(
            **{
                group: Count("pk", filter=condition)
                for group, (condition, *_) in BOOKING_GROUPS.items()
            }
        )

    def to_come(self) -> "BookingQuerySet":
        """Live holds, and confirmed bookings of what has not ended."""
        held = Q(status=Booking.Status.PENDING, expires_at__gt=Now())
        booked = Q(status=Booking.Status.CONFIRMED, slot__ends_at__gt=Now())
        return self.filter(held | booked)

    def for_slot(self, slot: Slot) -> "BookingQuerySet":
        """Live holds and confirmed bookings of the slot."""
        own = self.with_state().filter(slot=slot)
        return own.filter(state__in=[Booking.Status.PENDING, Booking.Status.CONFIRMED])


class Booking(models.Model):
    class Status(models.TextChoices):
        PENDING = "PENDING", "held"
        CONFIRMED = "CONFIRMED", "confirmed"
        FAILED = "FAILED", "failed"
        CANCELLED = "CANCELLED", "cancelled"

    class FailureReason(models.TextChoices):
        EXPIRED = "expired", "the hold lapsed"
        SOLD_OUT = "sold_out", "sold out"
        SEATS_TAKEN = "seats_taken", "seats taken"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    reference = models.CharField(max_length=8, default=new_reference, editable=False)
    slot = models.ForeignKey(Slot, models.PROTECT, related_name="bookings")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="bookings",
        db_index=False,
    )
    session_key = models.CharField(max_length=64, blank=True, help_text="The guest's browser.")
    name = models.CharField(max_length=150, blank=True)
    email = models.EmailField("e-mail address", blank=True)
    phone = models.CharField(max_length=40, blank=True)
    quantity = models.PositiveIntegerField()
    labels = ArrayField(models.CharField(max_length=40), default=list, help_text="Seats as booked.")
    status = models.CharField(max_length=9, choices=Status, default=Status.PENDING)
    failure_reason = models.CharField(max_length=11, choices=FailureReason, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    idempotency_key = models.CharField(  # noqa: DJ001  (without a key it is unique to nothing)
        max_length=200, null=True, blank=True
    )
    request_digest = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    confirmed_at = models.DateTimeField(null=True, blank=True)
    cancelled_at = models.DateTimeField(null=True, blank=True)

    objects = BookingQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["reference"], name="booking_reference_is_unique"),
            # The same request twice is the same booking: keys are a user's own …
            models.UniqueConstraint(
                fields=["user", "idempotency_key"],
                condition=Q(user__isnull=False, idempotency_key__isnull=False),
                name="booking_key_is_unique_for_user",
            ),
            # … and guests share one space of them.
            models.UniqueConstraint(
                fields=["idempotency_key"],
                condition=Q(user=None, idempotency_key__isnull=False),
                name="booking_key_is_unique_among_guests",
            ),
            models.CheckConstraint(
                condition=Q(quantity__gte=1), name="booking_is_of_at_least_one_seat"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["PENDING", "CONFIRMED", "FAILED", "CANCELLED"]),
                name="booking_status_is_known",
            ),
            # A hold always ends.
            models.CheckConstraint(
                condition=~Q(status="PENDING") | Q(expires_at__isnull=False),
                name="booking_pending_has_an_end",
            ),
            # A failure says why, and nothing else does.
            models.CheckConstraint(
                condition=(
                    Q(status="FAILED", failure_reason__in=["expired", "sold_out", "seats_taken"])
                    | (~Q(status="FAILED") & Q(failure_reason=""))
                ),
                name="booking_failed_has_a_reason",
            ),
            models.CheckConstraint(
                condition=~Q(status="CONFIRMED")
                | Q(confirmed_at__isnull=False, cancelled_at__isnull=True),
                name="booking_confirmed_has_its_time",
            ),
            models.CheckConstraint(
                condition=Q(status="CANCELLED", cancelled_at__isnull=False)
                | (~Q(status="CANCELLED") & Q(cancelled_at=None)),
                name="booking_cancelled_has_its_time",
            ),
        ]
        indexes = [
            # Holds by when they lapse: what the sweeper takes.
            models.Index(fields=["expires_at"], condition=Q(status="PENDING"), name="booking_due"),
            # A person's bookings, and their live holds.
            models.Index(
                fields=["user", "-created_at"],
                condition=Q(user__isnull=False),
                name="booking_by_user",
            ),
            # The same for a guest's browser.
            models.Index(
                fields=["session_key", "-created_at"],
                condition=~Q(session_key=""),
                name="booking_by_browser",
            ),
            # The office's list, the latest first. Refused attempts, of which a sold-out night
            # brings thousands, are not in the way …
            models.Index(
                fields=["-created_at", "id"],
                condition=~Q(failure_reason__in=["sold_out", "seats_taken"]),
                name="booking_latest",
            ),
            # … but in a list of their own.
            models.Index(
                fields=["-created_at", "id"],
                condition=Q(failure_reason__in=["sold_out", "seats_taken"]),
                name="booking_refused_latest",
            ),
            # Whoever gives an e-mail address at the desk, however it is typed.
            models.Index(Upper("email"), condition=~Q(email=""), name="booking_by_email"),
        ]
        permissions = [
            ("confirm_booking", "Can confirm bookings for others"),
            ("cancel_booking", "Can cancel bookings of others"),
            ("release_booking", "Can release holds of others"),
            ("export_booking", "Can export bookings"),
        ]

    def __str__(self) -> str:
        return self.reference

    def get_absolute_url(self) -> str:
        return reverse("booking", args=[self.pk])


# What was never held: the seats had gone. Recorded, to know of the demand.
BOOKING_WAS_REFUSED = Q(
    failure_reason__in=[Booking.FailureReason.SOLD_OUT, Booking.FailureReason.SEATS_TAKEN]
)
# By the database's clock, in the statement that asks.
BOOKING_HAS_LAPSED = Q(status=Booking.Status.PENDING, expires_at__lte=Now())

# The parts of a person's list, each with its order. What failed is in none: nothing came of it.
BOOKING_GROUPS = {
    "held": (Q(status=Booking.Status.PENDING, expires_at__gt=Now()), "expires_at"),
    "upcoming": (
        Q(status=Booking.Status.CONFIRMED, slot__ends_at__gt=Now()),
        "slot__starts_at",
    ),
    "past": (
        Q(status=Booking.Status.CONFIRMED, slot__ends_at__lte=Now()),
        "-slot__starts_at",
    ),
    "cancelled": (Q(status=Booking.Status.CANCELLED), "-cancelled_at"),
}


class BookingEvent(models.Model):
    """Who did what to a booking, when and why. Append-only; the booking row records its hold."""

    class Action(models.TextChoices):
        CONFIRM = "confirm", "confirmed"
        CANCEL = "cancel", "cancelled"
        RESCHEDULE = "reschedule", "rescheduled"
        EXPIRE = "expire", "expired"

    booking = models.ForeignKey(Booking, models.PROTECT, related_name="events")
    action = models.CharField(max_length=10, choices=Action)
    from_status = models.CharField(max_length=9, choices=Booking.Status)
    to_status = models.CharField(max_length=9, choices=Booking.Status)
    actor = models.CharField(max_length=254, help_text="A user's address, “guest” or “system”.")
    reason = models.CharField(max_length=500, blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.booking}: {self.get_action_display()}"
