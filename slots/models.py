"""What can be booked: a doctor's appointment or a show's performance is a slot; it has seats.

QuerySets read. Who owns a seat is written by `bookings.lifecycle` alone, which seats there are by
`slots.inventory`.
"""

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.conf import settings
from django.contrib.postgres.aggregates import StringAgg
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.expressions import ArraySubquery
from django.contrib.postgres.fields import BigIntegerRangeField, DateTimeRangeField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Case, Count, F, Func, OuterRef, Q, Subquery, Value, When
from django.db.models.functions import Abs, Coalesce, Concat, Lower, Now, Replace
from django.urls import reverse


def default_time_zone() -> str:
    return settings.TIME_ZONE


# In the folder of zones, but no zone that means the same anywhere else.
NO_ZONES = {"localtime", "posixrules", "Factory"}


def validate_time_zone(name: str) -> None:
    if name not in available_timezones() - NO_ZONES:
        raise ValidationError(f"“{name}” is no time zone; write it like Europe/Berlin.")


class SubjectQuerySet(models.QuerySet):
    """Doctors or shows."""

    def with_now(self) -> "SubjectQuerySet":
        """Adds `now`, the database's clock."""
        return self.annotate(now=Now())

    def search(self, words: str, *fields: str) -> "SubjectQuerySet":
        """Those that have each of the words somewhere in these fields, in whatever case, with or
        without accents. No index: reads every row, for each word (2,000 doctors: 5 ms).
        """
        parts: list[Any] = [part for field in fields for part in (F(field), Value(" "))]
        found = self.alias(text=_plain(Concat(*parts, output_field=models.TextField())))
        for word in dict.fromkeys(words.split()):
            found = found.filter(text__contains=_plain(Value(word)))
        return found

    def values_of(self, field: str) -> list[str]:
        """The different values of that field, in order: one query."""
        used = self.exclude(**{field: ""}).order_by(field)
        return list(used.values_list(field, flat=True).distinct())

    def with_next(self, slots: "SlotQuerySet") -> "SubjectQuerySet":
        """Adds `next_at`, the start of the next of `slots` or null; the soonest first."""
        starts = self._next(slots).values("starts_at")[:1]
        return self.annotate(next_at=Subquery(starts)).order_by(
            F("next_at").asc(nulls_last=True), "name", "id"
        )

    def next_slots(self, slots: "SlotQuerySet", most: int) -> "SlotQuerySet":
        """Of each of these the next so many of `slots`, as `for_list`: one query.

        A query of its own for the few on a page: to find these ids for all doctors, only to sort
        them, took twice the time of the whole list.
        """
        ids: Any = ArraySubquery(self._next(slots).values("pk")[:most])
        each = Func(
            ids, function="unnest", set_returning=True, output_field=models.BigIntegerField()
        )
        return Slot.objects.for_list().filter(
            pk__in=self.order_by().annotate(each=each).values("each")
        )

    def _next(self, slots: "SlotQuerySet") -> "SlotQuerySet":
        own = {self.model._meta.model_name: OuterRef("pk")}
        return slots.filter(**own).order_by("starts_at", "id")


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


def day_bounds(first: date, last: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """From when until (not including) when it is these days in that zone: 23 to 25 hours each."""
    after = last + timedelta(days=1)
    return datetime.combine(first, time.min, zone), datetime.combine(after, time.min, zone)


class SlotQuerySet(models.QuerySet["Slot"]):
    def with_now(self) -> "SlotQuerySet":
        """Adds `now`, the database's clock: the only one that decides."""
        return self.annotate(now=Now())

    def upcoming(self) -> "SlotQuerySet":
        """Not begun and not cancelled, the next one first."""
        return self.filter(starts_at__gt=Now(), cancelled_at=None).order_by("starts_at", "id")

    def in_days(self, first: date, last: date, zone: ZoneInfo) -> "SlotQuerySet":
        """Those that begin on these days, both included, in that zone."""
        start, end = day_bounds(first, last, zone)
        return self.filter(starts_at__gte=start, starts_at__lt=end)

    def in_local_days(
        self, first: date, last: date, *, of: str, zones: Iterable[str]
    ) -> "SlotQuerySet":
        """Those that begin on these days on the clock of their own venue.

        `of`: "doctor" or "show"; `zones`: all zones that those have. The bounds are worked out
        here and not by PostgreSQL, whose list of time zones may be older than the one shown by.
        """
        bounds = {zone: day_bounds(first, last, ZoneInfo(zone)) for zone in zones}
        if not bounds:
            return self.none()
        local = Q()
        for zone, (start, end) in bounds.items():
            local |= Q((f"{of}__time_zone", zone), starts_at__gte=start, starts_at__lt=end)
        earliest = min(start for start, _ in bounds.values())
        latest = max(end for _, end in bounds.values())
        return self.filter(local, starts_at__gte=earliest, starts_at__lt=latest)

    def with_availability(self) -> "SlotQuerySet":
        """Adds `capacity` (seats on sale) and `available` (those nobody owns now).

        Two counts, each with its partial index: one with an OR takes twice the time in a hall.
        """
        return self.annotate(
            capacity=_count_seats(Q(blocked=False)),
            available=_count_seats(SEAT_IS_FREE) + _count_seats(SEAT_HAS_LAPSED),
        )

    def with_left(self) -> "SlotQuerySet":
        """Adds `left`: available seats, counted up to FEW_LEFT + 1, so that no list costs more
        because its slots are large or sold out. Indexes: seat_next_free, seat_lapsed.
        """
        return self.annotate(left=_count_some(SEAT_IS_FREE) + _count_some(SEAT_HAS_LAPSED))

    def bookable(self) -> "SlotQuerySet":
        """Upcoming, open for booking now, and with a seat available."""
        return self.upcoming().open_now().with_room()

    def open_now(self) -> "SlotQuerySet":
        """For which `Slot.is_bookable` holds now, also if they have begun."""
        return self.filter(
            Q(opens_at=None) | Q(opens_at__lte=Now()),
            Q(closes_at__gt=Now()) | Q(closes_at=None, starts_at__gt=Now()),
            cancelled_at=None,
        )

    def with_room(self) -> "SlotQuerySet":
        """With a seat available.

        Two look-ups for each slot, 2 µs together, however many seats there are. With Exists instead
        PostgreSQL would often read the free seats of all slots first, those long past included,
        even for the first fifty.
        """
        seats = Seat.objects.filter(slot=OuterRef("pk")).order_by().values("slot")
        some = {"free": Subquery(seats.free()[:1]), "lapsed": Subquery(seats.lapsed()[:1])}
        return self.alias(**some).filter(Q(free__isnull=False) | Q(lapsed__isnull=False))

    def for_list(self) -> "SlotQuerySet":
        """Upcoming slots with what is `left`, doctor and show: one query."""
        return self.upcoming().with_now().with_left().select_related("doctor", "show")

    def for_api(self) -> "SlotQuerySet":
        """Any slot with its availability, doctor and show: one query."""
        return self.with_availability().select_related("doctor", "show")

    def part(self, first: int, most: int) -> "SlotQuerySet":
        """So many of these from that one on, by their start: `for_api`.

        Which ones is found first; otherwise the seats of all those before would be counted too.
        Before the first there are none, and to look them up again takes as long as the rest.
        """
        if not first:
            return self.for_api().order_by("starts_at", "id")[:most]
        ids = self.order_by("starts_at", "id").values("pk")[first : first + most]
        return Slot.objects.filter(pk__in=ids).for_api().order_by("starts_at", "id")

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
    # Why, for the mails: some may be written later than it was called off.
    cancel_reason = models.CharField(
        max_length=500, blank=True, default="", db_default="", editable=False
    )
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
            # A form that is sent twice makes one performance.
            models.UniqueConstraint(
                fields=["show", "starts_at"],
                condition=Q(show__isnull=False, cancelled_at=None),
                name="slot_of_a_show_starts_when_no_other_does",
                violation_error_message="The show has another slot at this time.",
            ),
        ]
        indexes = [
            # What is next: every list starts here. With `cancelled_at`, to count those that are on
            # without a look at the table, however long its past is.
            models.Index(
                fields=["starts_at", "id"], include=["cancelled_at"], name="slot_by_start"
            ),
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
    def clock_name(self) -> str:
        """“CEST” or “CET” in the hour that comes twice when summer time ends; else empty."""
        local = self.local_start
        first, second = (local.replace(fold=fold).utcoffset() for fold in (0, 1))
        return "" if first == second else f"{local:%Z}"

    # What lists say of each slot, in words: filters of templates take ten times as long.

    @property
    def clock(self) -> str:
        """“19:30”; in the hour that comes twice “02:30 CEST”."""
        return f"{self.local_start:%H:%M} {self.clock_name}".rstrip()

    @property
    def day(self) -> str:
        """“Wed 4 December 2030”."""
        local = self.local_start
        return f"{local:%a} {local.day} {local:%B} {local.year}"

    @property
    def day_parts(self) -> tuple[str, str, str]:
        """“Wed”, “4”, “Dec”."""
        local = self.local_start
        return f"{local:%a}", str(local.day), f"{local:%b}"

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

    def phase(self, now: datetime) -> str:
        """Where it stands at `now`, the database's time, between being announced and being over."""
        if self.cancelled_at:
            return "cancelled"
        if self.is_bookable(now):
            return "open"
        if self.opens_at and now < self.opens_at:
            return "not_yet"
        if now >= self.ends_at:
            return "past"
        return "begun" if now >= self.starts_at else "closed"


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

    def as_letters(self) -> "SeatQuerySet":
        """Of a slot one text: a letter for the state of each seat, in id order. Halls have
        thousands, of which each would cost more as a row.
        """
        letter = Case(
            When(blocked=True, then=Value(LETTERS[Seat.State.BLOCKED])),
            When(SEAT_IS_AVAILABLE, then=Value(LETTERS[Seat.State.AVAILABLE])),
            When(held_until=None, then=Value(LETTERS[Seat.State.BOOKED])),
            default=Value(LETTERS[Seat.State.RESERVED]),
            output_field=models.TextField(),
        )
        seats = self.order_by().values("slot")
        return seats.annotate(letters=StringAgg(letter, "", order_by="id")).values("letters")

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


# Of each state, for `as_letters`.
LETTERS = {
    Seat.State.AVAILABLE: "a",
    Seat.State.RESERVED: "r",
    Seat.State.BOOKED: "b",
    Seat.State.BLOCKED: "x",
}


def _plain(text: Any) -> Func:
    """Text without case and accents, by what every PostgreSQL has: no extension is needed."""
    is_text = {"output_field": models.TextField()}
    marks = [Value("[\u0300-\u036f]"), Value(""), Value("g")]
    apart = Func(text, template="normalize(%(expressions)s, NFD)", **is_text)
    plain: Any = Lower(Func(apart, *marks, function="regexp_replace", **is_text))
    for letter, written in {"ß": "ss", "ł": "l", "ø": "o", "đ": "d"}.items():
        plain = Replace(plain, Value(letter), Value(written), **is_text)
    return plain


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
