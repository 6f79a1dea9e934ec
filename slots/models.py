"""What can be booked: a doctor's appointment or a show's performance is a slot; it has seats.

QuerySets read. Who owns a seat is written by `bookings.lifecycle` alone, which seats there are by
`slots.inventory`.
"""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.conf import settings
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.expressions import ArraySubquery
from django.contrib.postgres.fields import BigIntegerRangeField, DateTimeRangeField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Case, Count, Exists, F, Func, OuterRef, Q, Subquery, Value, When
from django.db.models.functions import Abs, Coalesce, Now
from django.urls import reverse


def default_time_zone() -> str:
    return settings.TIME_ZONE


def validate_time_zone(name: str) -> None:
    if name not in available_timezones():
        raise ValidationError(f"“{name}” is no time zone; write it like Europe/Berlin.")


class SubjectQuerySet(models.QuerySet):
    """Doctors or shows."""

    def with_next_slots(self, slots: "SlotQuerySet", most: int) -> "SubjectQuerySet":
        """Adds `next_ids`, of the next so many of `slots`, and `next_at`; the soonest first."""
        of_subject = self.model._meta.model_name
        slots = slots.filter(**{of_subject: OuterRef("pk")}).order_by("starts_at", "id")
        return self.annotate(
            next_ids=ArraySubquery(slots.values("pk")[:most]),
            next_at=Subquery(slots.values("starts_at")[:1]),
        ).order_by(F("next_at").asc(nulls_last=True), "name", "id")


class Doctor(models.Model):
    name = models.CharField(max_length=200)
    specialization = models.CharField(max_length=200, blank=True)
    bio = models.TextField(blank=True)
    time_zone = models.CharField(
        max_length=64, default=default_time_zone, validators=[validate_time_zone]
    )

    objects = SubjectQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("doctor", args=[self.pk])


class Show(models.Model):
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    venue = models.CharField(max_length=200, blank=True)
    time_zone = models.CharField(
        max_length=64, default=default_time_zone, validators=[validate_time_zone]
    )

    objects = SubjectQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("show", args=[self.pk])


class SlotQuerySet(models.QuerySet["Slot"]):
    def with_now(self) -> "SlotQuerySet":
        """Adds `now`, the database's clock: the only one that decides."""
        return self.annotate(now=Now())

    def upcoming(self) -> "SlotQuerySet":
        """Not begun and not cancelled, the next one first."""
        return self.filter(starts_at__gt=Now(), cancelled_at=None).order_by("starts_at", "id")

    def with_availability(self) -> "SlotQuerySet":
        """Adds `capacity` (seats on sale) and `available` (those nobody owns now)."""
        return self.annotate(
            capacity=_count_seats(Q(blocked=False)), available=_count_seats(SEAT_IS_AVAILABLE)
        )

    def with_left(self) -> "SlotQuerySet":
        """Adds `left`: available seats, counted up to FEW_LEFT + 1, so that no list costs more
        because its slots are large or sold out. Indexes: seat_next_free, seat_lapsed.
        """
        return self.annotate(left=_count_some(SEAT_IS_FREE) + _count_some(SEAT_HAS_LAPSED))

    def bookable(self) -> "SlotQuerySet":
        """Upcoming, open for booking now, and with a seat available."""
        seats = Seat.objects.filter(slot=OuterRef("pk"))
        return self.upcoming().filter(
            Q(opens_at=None) | Q(opens_at__lte=Now()),
            Q(closes_at=None) | Q(closes_at__gt=Now()),
            Exists(seats.free()) | Exists(seats.lapsed()),
        )

    def for_list(self) -> "SlotQuerySet":
        """Upcoming slots with what is `left`, doctor and show: one query."""
        return self.upcoming().with_now().with_left().select_related("doctor", "show")

    def for_page(self) -> "SlotQuerySet":
        """Any slot with doctor, show and `now`: one query."""
        return self.with_now().select_related("doctor", "show")


class Slot(models.Model):
    class Seating(models.TextChoices):
        NUMBERED = "NUMBERED", "numbered seats"
        GENERAL = "GENERAL", "unnumbered places"

    doctor = models.ForeignKey(
        Doctor, models.PROTECT, null=True, blank=True, related_name="slots", db_index=False
    )
    show = models.ForeignKey(
        Show, models.PROTECT, null=True, blank=True, related_name="slots", db_index=False
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    opens_at = models.DateTimeField(
        null=True, blank=True, help_text="When booking opens. Empty: at once."
    )
    closes_at = models.DateTimeField(
        null=True, blank=True, help_text="When booking closes. Empty: when the slot starts."
    )
    seating = models.CharField(max_length=8, choices=Seating, default=Seating.GENERAL)
    cancelled_at = models.DateTimeField(null=True, blank=True, editable=False)
    # Between these a search for any free seat starts, at random. A hint: it wraps, so that seats
    # outside are found too.
    first_seat_id = models.BigIntegerField(default=0, editable=False)
    last_seat_id = models.BigIntegerField(default=0, editable=False)

    objects = SlotQuerySet.as_manager()

    class Meta:
        ordering = ["starts_at", "id"]
        permissions = [("cancel_slot", "Can cancel a slot and its bookings")]
        constraints = [
            # A slot is an appointment or a performance, never both, never neither.
            models.CheckConstraint(
                condition=Q(doctor=None, show__isnull=False) | Q(doctor__isnull=False, show=None),
                name="slot_is_of_a_doctor_or_of_a_show",
                violation_error_message="Choose either a doctor or a show.",
            ),
            # Time runs forward.
            models.CheckConstraint(
                condition=Q(starts_at__lt=F("ends_at")),
                name="slot_starts_before_it_ends",
                violation_error_message="The end must be after the start.",
            ),
            # Booking closes after it opens, and not after the end.
            models.CheckConstraint(
                condition=(
                    Q(opens_at=None) | Q(opens_at__lt=Coalesce(F("closes_at"), F("starts_at")))
                )
                & (Q(closes_at=None) | Q(closes_at__lte=F("ends_at"))),
                name="slot_opens_before_it_closes",
                violation_error_message=(
                    "Booking must close after it opens, and no later than the end of the slot."
                ),
            ),
            # Nobody can be in two consultations at once. The range of one doctor's id stands for
            # equality, which plain GiST offers for ranges only (no btree_gist).
            ExclusionConstraint(
                name="slot_of_a_doctor_overlaps_no_other",
                expressions=[
                    (
                        Func(
                            F("doctor"),
                            F("doctor"),
                            Value("[]"),
                            function="int8range",
                            output_field=BigIntegerRangeField(),
                        ),
                        "&&",
                    ),
                    (
                        Func(
                            F("starts_at"),
                            F("ends_at"),
                            function="tstzrange",
                            output_field=DateTimeRangeField(),
                        ),
                        "&&",
                    ),
                ],
                condition=Q(doctor__isnull=False, cancelled_at=None),
                violation_error_message="The doctor has another slot at this time.",
            ),
        ]
        indexes = [
            # What is next: every list starts here.
            models.Index(fields=["starts_at", "id"], name="slot_by_start"),
            # The times of a doctor …
            models.Index(
                fields=["doctor", "starts_at"],
                condition=Q(doctor__isnull=False),
                name="slot_by_doctor",
            ),
            # … and the dates of a show.
            models.Index(
                fields=["show", "starts_at"], condition=Q(show__isnull=False), name="slot_by_show"
            ),
            # The few that were called off: housekeeping looks whether their bookings were, too.
            models.Index(
                fields=["id"], condition=Q(cancelled_at__isnull=False), name="slot_cancelled"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.subject}, {self.local_start:%a %d %b %Y %H:%M %Z}"

    def get_absolute_url(self) -> str:
        return reverse("slot", args=[self.pk])

    def validate_constraints(self, exclude: Any = None) -> None:
        """Also for a form without `cancelled_at`, which a constraint needs (Django #36222)."""
        super().validate_constraints(exclude=set(exclude or ()) - {"cancelled_at"})

    @property
    def subject(self) -> Doctor | Show:
        """Whom or what one books."""
        return self.doctor or self.show

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.subject.time_zone)

    @property
    def local_start(self) -> datetime:
        """The start on the clock of the venue."""
        return self.starts_at.astimezone(self.zone)

    @property
    def local_end(self) -> datetime:
        return self.ends_at.astimezone(self.zone)

    @property
    def is_numbered(self) -> bool:
        return self.seating == self.Seating.NUMBERED

    @property
    def booking_ends_at(self) -> datetime:
        return self.closes_at or self.starts_at

    def is_bookable(self, now: datetime) -> bool:
        """Whether seats can be held and bookings confirmed at `now`, the database's time."""
        is_open = self.opens_at is None or self.opens_at <= now
        return self.cancelled_at is None and is_open and now < self.booking_ends_at


# Nobody owns it, or the owner's hold has lapsed. `Now()` is PostgreSQL's statement_timestamp().
SEAT_IS_FREE = Q(booking=None, blocked=False)
SEAT_HAS_LAPSED = Q(held_until__lte=Now())
SEAT_IS_AVAILABLE = SEAT_IS_FREE | SEAT_HAS_LAPSED

# Lists say how many are left up to this many.
FEW_LEFT = 20


class SeatQuerySet(models.QuerySet["Seat"]):
    def free(self) -> "SeatQuerySet":
        """Owned by nobody and not held back. Index: seat_next_free."""
        return self.filter(SEAT_IS_FREE)

    def in_turn(self) -> "SeatQuerySet":
        """By `turn`, which is the id: of free seats of a slot in the order of seat_next_free.

        Ordered by "id" they would be in the primary key's order too, and with statistics from
        before a rush PostgreSQL prefers that: it wades through all that was taken since, and on
        through the seats of other slots.
        """
        return self.alias(turn=Abs("id")).order_by("turn")

    def lapsed(self) -> "SeatQuerySet":
        """Still in the name of a hold that is over: free to whoever comes. Index: seat_lapsed."""
        return self.filter(SEAT_HAS_LAPSED)

    def owned(self) -> "SeatQuerySet":
        """Held or booked at this moment."""
        return self.filter(booking__isnull=False).exclude(SEAT_HAS_LAPSED)

    def available(self) -> "SeatQuerySet":
        """Free or lapsed. Only for seats named by id: over a whole slot the OR costs its size."""
        return self.filter(SEAT_IS_AVAILABLE)

    def with_state(self) -> "SeatQuerySet":
        """Adds `state`, as everybody sees it at this moment: a `Seat.State`."""
        return self.annotate(
            state=Case(
                When(blocked=True, then=Value(Seat.State.BLOCKED)),
                When(SEAT_IS_AVAILABLE, then=Value(Seat.State.AVAILABLE)),
                When(held_until=None, then=Value(Seat.State.BOOKED)),
                default=Value(Seat.State.RESERVED),
                output_field=models.CharField(),
            )
        )

    def lock(self) -> "SeatQuerySet":
        """Locks the rows in id order, waiting for each, until the transaction ends."""
        return self.order_by("id").select_for_update(of=("self",), no_key=True)

    def lock_unlocked(self) -> "SeatQuerySet":
        """Locks the rows that nobody else has locked, in whatever order; never waits."""
        return self.select_for_update(of=("self",), no_key=True, skip_locked=True)


class Seat(models.Model):
    class State(models.TextChoices):
        AVAILABLE = "AVAILABLE", "available"
        RESERVED = "RESERVED", "reserved"
        BOOKED = "BOOKED", "booked"
        BLOCKED = "BLOCKED", "not on sale"

    slot = models.ForeignKey(Slot, models.PROTECT, related_name="seats", db_index=False)
    label = models.CharField(max_length=40)
    section = models.CharField(max_length=40, blank=True)
    row = models.CharField(max_length=10, blank=True)
    number = models.PositiveIntegerField(null=True, blank=True)
    column = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Where in the row it stands; columns left out are aisles."
    )
    accessible = models.BooleanField(default=False)
    blocked = models.BooleanField(default=False)
    block_reason = models.CharField(max_length=200, blank=True)
    # The one owner. With `held_until` in the future the seat is held, without it booked; with
    # `held_until` in the past it is free again, whether or not anybody has tidied up.
    booking = models.ForeignKey(
        "bookings.Booking",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="seats",
        db_index=False,
    )
    held_until = models.DateTimeField(null=True, blank=True)

    objects = SeatQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [
            # One label, one seat; its index also finds all seats of a slot.
            models.UniqueConstraint(fields=["slot", "label"], name="seat_label_is_unique_in_slot"),
            # Time without an owner would be a hold of nobody.
            models.CheckConstraint(
                condition=Q(held_until=None) | Q(booking__isnull=False),
                name="seat_held_has_a_booking",
            ),
            # What is held back is nobody's.
            models.CheckConstraint(
                condition=Q(blocked=False) | Q(booking=None), name="seat_blocked_is_free"
            ),
        ]
        indexes = [
            # The next free seat of a slot, also when a hundred thousand are taken: see `in_turn`.
            models.Index(F("slot"), Abs("id"), condition=SEAT_IS_FREE, name="seat_next_free"),
            # Those whose hold has lapsed, whether or not housekeeping has run.
            models.Index(
                fields=["slot", "held_until"],
                condition=Q(held_until__isnull=False),
                name="seat_lapsed",
            ),
            # The seats of a booking.
            models.Index(
                fields=["booking"], condition=Q(booking__isnull=False), name="seat_by_booking"
            ),
        ]

    def __str__(self) -> str:
        return self.label


def _count_seats(condition: Q) -> Coalesce:
    """How many seats of the slot in the outer query meet the condition."""
    seats: Any = Seat.objects.filter(condition, slot=OuterRef("pk")).order_by().values("slot")
    return Coalesce(Subquery(seats.annotate(n=Count("*")).values("n")), 0)


def _count_some(condition: Q) -> Func:
    """How many seats of the slot in the outer query meet the condition, up to FEW_LEFT + 1."""
    seats: Any = Seat.objects.filter(condition, slot=OuterRef("pk")).order_by()
    return Func(
        ArraySubquery(seats.values("pk")[: FEW_LEFT + 1]),
        function="cardinality",
        output_field=models.IntegerField(),
    )
