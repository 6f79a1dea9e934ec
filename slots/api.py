"""Doctors, shows, slots and seats for programs; and for staff, what makes them."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from django import forms
from django.contrib.postgres.aggregates import StringAgg
from django.core.exceptions import PermissionDenied
from django.core.serializers.json import DjangoJSONEncoder
from django.core.validators import RegexValidator
from django.db import transaction
from django.db.models import Case, Count, F, Func, QuerySet, TextField, Value, When
from django.db.models.functions import Cast, Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Field, Query, Router, Schema, Status
from ninja.pagination import paginate
from pydantic import AfterValidator, ValidationInfo, field_validator

from accounts import tokens
from booking_site.coalesce import read_together
from booking_site.fields import BIGGEST_ID, IdInUrl, Moment, Pages, Text, as_in
from booking_site.openapi import refuses
from booking_site.prepared import prepared, select, send
from slots import inventory
from slots.forms import WordsField
from slots.inventory import MOST_IN_A_ROW, MOST_SEATS
from slots.models import Doctor, Seat, Show, Slot, SlotQuerySet, validate_time_zone

router = Router(tags=["What can be booked"], auth=None)
office = Router(tags=["Office"])

USUAL_LENGTH = timedelta(hours=2)  # of a show that does not say when it ends
ONE_LINE = [RegexValidator(r"^[^\x00-\x1f\x7f]*$", "Write it on one line.")]


def _as_typed(**options: Any) -> AfterValidator:
    """A check like that of a text field in the office, which strips what is around the text."""
    return AfterValidator(as_in(forms.CharField(**options)))


Words = Annotated[
    Text, AfterValidator(as_in(WordsField(label="name"))), Field(examples=["heart surgery"])
]
# The lengths come first: after another check the OpenAPI document would not tell them.
Name = Annotated[
    str,
    Field(min_length=1, max_length=200),
    _as_typed(validators=ONE_LINE, error_messages={"required": "Give it a name."}),
]
Line = Annotated[str, Field(max_length=200), _as_typed(required=False, validators=ONE_LINE)]
Prose = Annotated[str, Field(max_length=10_000), _as_typed(required=False)]
TimeZone = Annotated[
    str,
    Field(max_length=64, description="Default: the site's.", examples=["Europe/Berlin"]),
    _as_typed(validators=[validate_time_zone]),
]
Places = Annotated[int, Field(strict=True, ge=1, le=MOST_SEATS)]
RowLength = Annotated[int, Field(strict=True, ge=1, le=MOST_IN_A_ROW)]


class DoctorOut(Schema):
    id: int
    name: str
    specialization: str
    bio: str
    time_zone: str = Field(examples=["Europe/Berlin"])


class ShowOut(Schema):
    id: int
    name: str
    description: str
    venue: str
    time_zone: str = Field(examples=["Europe/Berlin"])


class SlotOut(Schema):
    """An appointment of a doctor or a performance of a show: of the two fields one is null."""

    id: int
    doctor: int | None = Field(None, alias="doctor_id", description="The doctor's id.")
    show: int | None = Field(None, alias="show_id", description="The show's id.")
    name: str = Field(alias="subject.name", description="Of the doctor or the show.")
    time_zone: str = Field(alias="subject.time_zone", examples=["Europe/Berlin"])
    starts_at: datetime
    ends_at: datetime
    opens_at: datetime | None = Field(description="When booking opens; null: it is open.")
    closes_at: datetime | None = Field(description="When it closes; null: at the start.")
    cancelled_at: datetime | None
    seating: Literal["NUMBERED", "GENERAL"]
    capacity: int = Field(description="Seats on sale, sold ones included.")
    available: int = Field(description="Those of them that nobody has held or booked.")


class SeatOut(Schema):
    id: int
    label: str = Field(examples=["A1"])
    section: str
    row: str
    number: int | None
    accessible: bool = Field(description="A place for a wheelchair.")
    state: Literal["AVAILABLE", "RESERVED", "BOOKED"]


class DoctorFilters(Schema):
    specialization: Text = ""
    q: Words = ""

    def find(self) -> QuerySet[Doctor]:
        found = Doctor.objects.search(self.q, "name", "specialization")
        if self.specialization:
            found = found.filter(specialization=self.specialization)
        return found


class ShowFilters(Schema):
    q: Words = ""


class SlotFilters(Schema):
    doctor: IdInUrl | None = None
    show: IdInUrl | None = None
    from_: Moment | None = Field(None, alias="from", description="Those that start then or later.")
    to: Moment | None = Field(None, description="Those that start before that.")
    available: Literal["true", "false"] = Field(
        "false", description="Only those that can be booked now and have a seat left."
    )

    @field_validator("to")
    @classmethod
    def check_order(cls, to: datetime | None, others: ValidationInfo) -> datetime | None:
        start = others.data.get("from_")
        if to and start and to < start:
            raise ValueError("This is before “from”. Choose a later end, or an earlier start")
        return to

    def apply(self, slots: SlotQuerySet) -> SlotQuerySet:
        """Those that were asked for, without a default."""
        wanted: dict[str, Any] = {
            "doctor": self.doctor,
            "show": self.show,
            "starts_at__gte": self.from_,
            "starts_at__lt": self.to,
        }
        slots = slots.filter(**{name: value for name, value in wanted.items() if value is not None})
        return slots.open_now().with_room() if self.available == "true" else slots


class PagedSlotOut(Schema):
    items: list[SlotOut]
    count: int


@router.get("doctors", response=list[DoctorOut], summary="Find doctors")
@paginate(Pages)
def doctors(request: HttpRequest, filters: Query[DoctorFilters]) -> QuerySet[Doctor]:
    """Doctors by name: of one specialization, or with all words in name or specialization."""
    return filters.find()


@router.get("doctors/{int:doctor_id}", response=DoctorOut, summary="One doctor")
def doctor(request: HttpRequest, doctor_id: int) -> Doctor:
    """Who it is; when there is time, `GET slots?doctor=` says."""
    return _find(Doctor.objects, doctor_id, "doctor")


@router.get("shows", response=list[ShowOut], summary="Find shows")
@paginate(Pages)
def shows(request: HttpRequest, filters: Query[ShowFilters]) -> QuerySet[Show]:
    """Shows by name: with all words in name, venue or description."""
    return Show.objects.search(filters.q, "name", "venue", "description")


@router.get("shows/{int:show_id}", response=ShowOut, summary="One show")
def show(request: HttpRequest, show_id: int) -> Show:
    """What it is; when it is on, `GET slots?show=` says."""
    return _find(Show.objects, show_id, "show")


# Of each field of SlotOut where it is found.
SLOT_FIELDS = {name: field.alias or name for name, field in SlotOut.model_fields.items()}
# First pages of these sizes have SQL that is written once; other pages have theirs each time.
USUAL_LIMITS = {10, 20, 25, 50, 100, 200}


@router.get("slots", response=PagedSlotOut, summary="Find slots")
def slots(
    request: HttpRequest, filters: Query[SlotFilters], pages: Query[Pages.Input]
) -> HttpResponse:
    """Slots that have not been called off, the next first: future ones, unless `from` is given."""

    def read() -> bytes:
        # Of one doctor or show the plan is made for that one.
        of_one = filters.doctor or filters.show
        if of_one or pages.offset or pages.limit not in USUAL_LIMITS:
            return _write_slots(_asked_for(filters), pages)
        asked = filters.dict()
        available = asked.pop("available")
        count, rows = send(_count(available, **asked), _first(pages.limit, available, **asked))
        return _as_json(sum(count), rows)

    found = read_together(("slots", *filters.dict().values(), pages.limit, pages.offset), read)
    return _answer(found)


def _asked_for(filters: SlotFilters) -> SlotQuerySet:
    known = Slot.objects.filter(cancelled_at=None) if filters.from_ else Slot.objects.upcoming()
    return filters.apply(known)


@prepared
def _first(limit: int, available: str, **asked: Any) -> Any:
    filters = SlotFilters.model_construct(available=available, **asked)
    return select(_rows(_asked_for(filters), 0, limit))


@prepared
def _count(available: str, **asked: Any) -> Any:
    """No row if there are none."""
    slots = _asked_for(SlotFilters.model_construct(available=available, **asked))
    one = slots.order_by().annotate(all=Value(1)).values("all")
    return select(one.annotate(n=Count("pk")).values_list("n", flat=True))


def _write_slots(slots: SlotQuerySet, pages: Pages.Input) -> bytes:
    """PagedSlotOut. Two queries: one counts all, the other also the seats of the page's."""
    return _as_json(slots.count(), _rows(slots, pages.offset, pages.limit))


def _rows(slots: SlotQuerySet, offset: int, limit: int) -> QuerySet:
    """Of each slot a row with what SLOT_FIELDS name."""
    subject = {name: Coalesce(f"doctor__{name}", f"show__{name}") for name in ("name", "time_zone")}
    columns = [source.removeprefix("subject.") for source in SLOT_FIELDS.values()]
    return slots.part(offset, limit).annotate(**subject).values_list(*columns)


def _as_json(count: int, rows: Iterable[tuple]) -> bytes:
    """PagedSlotOut. From rows: to make models of them and to let ninja check each took three times
    as long.
    """
    items = [dict(zip(SLOT_FIELDS, row, strict=True)) for row in rows]
    return json.dumps({"items": items, "count": count}, cls=DjangoJSONEncoder).encode()


@router.get("slots/{int:slot_id}", response=SlotOut, summary="One slot")
def slot(request: HttpRequest, slot_id: int) -> Slot:
    """An appointment or a performance, and how many seats are left."""
    return _find(Slot.objects.for_api(), slot_id, "slot")


@router.get("slots/{int:slot_id}/seats", response=list[SeatOut], summary="The seats of a slot")
def seats(request: HttpRequest, slot_id: int) -> HttpResponse:
    """All seats as they are at this moment. What is held back from sale is `BOOKED`."""
    found = read_together(("seats", slot_id), lambda: _read_seats(slot_id))
    return _answer(found)


def _read_seats(slot_id: int) -> bytes:
    """JSON. Raises Http404."""
    seats = _seats_of(slot_id) if slot_id <= BIGGEST_ID else "[]"
    if seats == "[]":
        _find(Slot.objects, slot_id, "slot")
    return seats.encode()


def _seats_of(slot_id: int) -> str:
    """As JSON: SeatOut, in their order. One query."""
    [written] = send(_write_seats(slot=slot_id))
    return f"[{''.join(written)}]"


@prepared
def _write_seats(*, slot: int) -> Any:
    """No row if there are no seats.

    The database writes it. For the largest hall that is 24 MB and half a second; for Python it is
    two seconds in which the process does nothing else, and for ninja to check each seat ten.
    """
    state = Case(
        When(state=Seat.State.BLOCKED, then=Value(Seat.State.BOOKED.value)), default=F("state")
    )
    fields = [
        part
        for name in SeatOut.model_fields
        for part in (Value(name), state if name == "state" else F(name))
    ]
    seat = Cast(Func(*fields, function="JSON_BUILD_OBJECT"), TextField())
    found = Seat.objects.filter(slot=slot).with_state().order_by().values("slot")
    all_of_them = StringAgg(seat, ", ", order_by="id")
    return select(found.annotate(seats=all_of_them).values_list("seats", flat=True))


def _answer(found: bytes | str, **options: Any) -> HttpResponse:
    """With JSON that is written, as ninja's own answers are sent."""
    return HttpResponse(found, content_type="application/json; charset=utf-8", **options)


def _find(among: Any, pk: int, what: str) -> Any:
    found = among.filter(pk=pk).first()
    if found is None:
        raise Http404(f"There is no {what} with this id.")
    return found


# ── For staff ─────────────────────────────────────────────────────────────────────────────────────


class DoctorIn(Schema):
    name: Name = Field(examples=["Dr. Grace Hopper"])
    specialization: Line = Field("", examples=["Cardiology"])
    bio: Prose = ""
    time_zone: TimeZone | None = None


class TimesIn(Schema):
    starts_at: Moment
    ends_at: Moment = Field(examples=["2027-03-28T20:00:00+02:00"])

    @field_validator("ends_at")
    @classmethod
    def check_order(cls, end: datetime | None, others: ValidationInfo) -> datetime | None:
        start = others.data.get("starts_at")
        if end and start and end <= start:
            raise ValueError("The end must be after the start")
        return end


class SlotIn(TimesIn):
    capacity: Places = Field(description="How many people can book it.", examples=[1])


class ShowIn(TimesIn):
    name: Name = Field(examples=["Hamlet"])
    venue: Line = Field("", examples=["Old Theatre"])
    description: Prose = ""
    time_zone: TimeZone | None = None
    ends_at: Moment | None = Field(None, description="Two hours after the start, if not given.")
    rows: Places | None = Field(None, examples=[12])
    seats_per_row: RowLength | None = Field(None, validate_default=True, examples=[20])
    capacity: Places | None = Field(
        None,
        validate_default=True,
        description="Of unnumbered places, instead of rows.",
        examples=[None],
    )

    @field_validator("seats_per_row")
    @classmethod
    def check_rows(cls, seats_per_row: int | None, others: ValidationInfo) -> int | None:
        rows = others.data.get("rows")
        if "rows" in others.data and (rows is None) != (seats_per_row is None):
            raise ValueError("Give both, rows and seats_per_row, or neither")
        if rows and seats_per_row and rows * seats_per_row > MOST_SEATS:
            raise ValueError(f"A slot can have at most {MOST_SEATS:,} seats in all its rows")
        return seats_per_row

    @field_validator("capacity")
    @classmethod
    def check_seating(cls, capacity: int | None, others: ValidationInfo) -> int | None:
        are_readable = {"rows", "seats_per_row"} <= others.data.keys()
        if are_readable and (others.data["rows"] is None) == (capacity is None):
            raise ValueError("Give either capacity, or rows and seats_per_row")
        return capacity

    @property
    def of_show(self) -> dict[str, str]:
        """What is the show's own, and not its slot's."""
        return self.dict(include={"name", "venue", "description", "time_zone"}, exclude_none=True)


class ShowWithSlotOut(ShowOut):
    slot: SlotOut
    seats: list[SeatOut]


@office.get(
    "doctors",
    auth=tokens.staff("slots.view_doctor"),
    response=list[DoctorOut],
    summary="Find doctors, as staff",
)
@paginate(Pages)
def all_doctors(request: HttpRequest, filters: Query[DoctorFilters]) -> QuerySet[Doctor]:
    """The same as `GET doctors`."""
    return filters.find()


@office.post(
    "doctors",
    auth=tokens.staff("slots.add_doctor"),
    response={201: DoctorOut},
    url_name="all_doctors",
    summary="Add a doctor",
)
def add_doctor(request: HttpRequest, doctor: DoctorIn, response: HttpResponse) -> Status:
    """A doctor without slots."""
    added = Doctor.objects.create(**doctor.dict(exclude_none=True))
    response["Location"] = reverse("api:doctor", args=[added.pk])
    return Status(201, added)


@office.post(
    "doctors/{int:doctor_id}/slots",
    auth=tokens.staff("slots.add_slot"),
    response={201: SlotOut},
    summary="Add a slot of a doctor",
    openapi_extra=refuses("overlap"),
)
def add_slot(request: HttpRequest, doctor_id: int, slot: SlotIn, response: HttpResponse) -> Status:
    """A slot with so many places, at a time when the doctor has no other."""
    doctor = _find(Doctor.objects, doctor_id, "doctor")
    with transaction.atomic():
        added = inventory.create_slot(doctor, starts_at=slot.starts_at, ends_at=slot.ends_at)
        inventory.add_places(added, places=slot.capacity)
        shown = Slot.objects.for_api().get(pk=added.pk)
    response["Location"] = reverse("api:slot", args=[added.pk])
    return Status(201, shown)


@office.post(
    "shows",
    auth=tokens.staff("slots.add_show"),
    response={201: ShowWithSlotOut},
    summary="Add a show with its seats",
)
def add_show(request: HttpRequest, show: ShowIn) -> HttpResponse:
    """A show with one slot: rows of numbered seats, or so many places. Sent twice, it makes two."""
    if not request.user.has_perm("slots.add_slot"):
        raise PermissionDenied("Only staff who may add slots, too, may add a show with one.")
    with transaction.atomic():
        added = Show.objects.create(**show.of_show)
        slot = inventory.create_slot(
            added,
            starts_at=show.starts_at,
            ends_at=show.ends_at or show.starts_at + USUAL_LENGTH,
            seating=Slot.Seating.GENERAL if show.capacity else Slot.Seating.NUMBERED,
        )
        if show.capacity:
            inventory.add_places(slot, places=show.capacity)
        else:
            inventory.add_rows(slot, rows=show.rows, seats_per_row=show.seats_per_row)
    shown = ShowOut.from_orm(added).dict() | {
        "slot": SlotOut.from_orm(Slot.objects.for_api().get(pk=slot.pk)).dict()
    }
    shown = json.dumps(shown, cls=DjangoJSONEncoder).removesuffix("}")
    return _answer(
        f'{shown}, "seats": {_seats_of(slot.pk)}}}',
        status=201,
        headers={"Location": reverse("api:show", args=[added.pk])},
    )


@office.get(
    "slots",
    auth=tokens.staff("slots.view_slot"),
    response=PagedSlotOut,
    summary="Find slots, past ones too",
)
def all_slots(
    request: HttpRequest, filters: Query[SlotFilters], pages: Query[Pages.Input]
) -> HttpResponse:
    """Slots of any time, those called off too, in their order."""
    found = _write_slots(filters.apply(Slot.objects.all()), pages)
    return _answer(found)
