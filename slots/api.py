"""Doctors, shows, slots and seats for programs; and for staff, what makes them."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from ninja import Field, Query, Router, Schema, Status
from ninja.pagination import paginate
from pydantic import AfterValidator, model_validator

from accounts import tokens
from booking_site.fields import Count, IdInUrl, Moment, Pages, Text, as_in
from booking_site.openapi import refuses
from slots import inventory
from slots.forms import WordsField
from slots.models import Doctor, Seat, Show, Slot

router = Router(tags=["What can be booked"], auth=None)
office = Router(tags=["Office"])

USUAL_LENGTH = timedelta(hours=2)  # of a show that does not say when it ends
Words = Annotated[
    Text, AfterValidator(as_in(WordsField(label="name"))), Field(examples=["heart surgery"])
]


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

    def apply(self, slots: QuerySet[Slot]) -> QuerySet[Slot]:
        """Those that were asked for, without a default."""
        wanted: dict[str, Any] = {
            "doctor": self.doctor,
            "show": self.show,
            "starts_at__gte": self.from_,
            "starts_at__lt": self.to,
        }
        slots = slots.filter(**{name: value for name, value in wanted.items() if value is not None})
        if self.available == "true":
            slots = slots.bookable()
        return slots.with_availability().select_related("doctor", "show")


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


@router.get("slots", response=list[SlotOut], summary="Find slots")
@paginate(Pages)
def slots(request: HttpRequest, filters: Query[SlotFilters]) -> QuerySet[Slot]:
    """Slots that have not been called off, the next first: future ones, unless `from` is given."""
    found = Slot.objects.filter(cancelled_at=None) if filters.from_ else Slot.objects.upcoming()
    return filters.apply(found.order_by("starts_at", "id"))


@router.get("slots/{int:slot_id}", response=SlotOut, summary="One slot")
def slot(request: HttpRequest, slot_id: int) -> Slot:
    """An appointment or a performance, and how many seats are left."""
    return _find(Slot.objects.with_availability().select_related("doctor", "show"), slot_id, "slot")


@router.get("slots/{int:slot_id}/seats", response=list[SeatOut], summary="The seats of a slot")
def seats(request: HttpRequest, slot_id: int) -> list[dict[str, Any]]:
    """All seats as they are at this moment. What is held back from sale is `BOOKED`."""
    _find(Slot.objects, slot_id, "slot")
    return seats_of(slot_id)


def seats_of(slot_id: int) -> list[dict[str, Any]]:
    """As SeatOut, in their order: one query."""
    fields = ("id", "label", "section", "row", "number", "accessible", "state")
    found = list(Seat.objects.filter(slot=slot_id).with_state().order_by("id").values(*fields))
    for seat in found:
        if seat["state"] == Seat.State.BLOCKED:
            seat["state"] = Seat.State.BOOKED.value
    return found


def _find(among: Any, pk: int, what: str) -> Any:
    found = among.filter(pk=pk).first()
    if found is None:
        raise Http404(f"There is no {what} with this id.")
    return found


# ── For staff ─────────────────────────────────────────────────────────────────────────────────────


class DoctorIn(Schema):
    name: Text = Field(min_length=1, max_length=200, examples=["Dr. Grace Hopper"])
    specialization: Text = Field("", max_length=200, examples=["Cardiology"])


class TimesIn(Schema):
    starts_at: Moment
    ends_at: Moment

    @model_validator(mode="after")
    def check_order(self) -> "TimesIn":
        if self.ends_at and self.ends_at <= self.starts_at:
            raise ValueError("ends_at must be after starts_at")
        return self


class SlotIn(TimesIn):
    capacity: Count


class ShowIn(TimesIn):
    name: Text = Field(min_length=1, max_length=200, examples=["Hamlet"])
    ends_at: Moment | None = Field(None, description="Two hours after the start, if not given.")
    rows: Count | None = None
    seats_per_row: Count | None = None
    capacity: Count | None = Field(None, description="Of unnumbered places, instead of rows.")

    @model_validator(mode="after")
    def check_seating(self) -> "ShowIn":
        in_rows = self.rows is not None and self.seats_per_row is not None
        in_part = self.rows is not None or self.seats_per_row is not None
        if (self.capacity is not None and in_part) or (self.capacity is None and not in_rows):
            raise ValueError("Give rows and seats_per_row, or capacity")
        return self


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
def add_doctor(request: HttpRequest, doctor: DoctorIn) -> Status:
    """A doctor without slots, in the site's own time zone."""
    return Status(201, Doctor.objects.create(**doctor.dict()))


@office.post(
    "doctors/{int:doctor_id}/slots",
    auth=tokens.staff("slots.add_slot"),
    response={201: SlotOut},
    summary="Add a slot of a doctor",
    openapi_extra=refuses("overlap"),
)
def add_slot(request: HttpRequest, doctor_id: int, slot: SlotIn) -> Status:
    """A slot with so many places, which the doctor has no other slot beside."""
    doctor = _find(Doctor.objects, doctor_id, "doctor")
    with transaction.atomic():
        added = inventory.create_slot(doctor, starts_at=slot.starts_at, ends_at=slot.ends_at)
        inventory.add_places(added, places=slot.capacity)
    return Status(201, _shown(added))


@office.post(
    "shows",
    auth=tokens.staff("slots.add_show"),
    response={201: ShowWithSlotOut},
    summary="Add a show with its seats",
)
def add_show(request: HttpRequest, show: ShowIn) -> Status:
    """A show with one slot: rows of numbered seats, or so many unnumbered places."""
    with transaction.atomic():
        added = Show.objects.create(name=show.name)
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
    added.slot, added.seats = _shown(slot), seats_of(slot.pk)
    return Status(201, added)


@office.get(
    "slots",
    auth=tokens.staff("slots.view_slot"),
    response=list[SlotOut],
    summary="Find slots, past ones too",
)
@paginate(Pages)
def all_slots(request: HttpRequest, filters: Query[SlotFilters]) -> QuerySet[Slot]:
    """Slots of any time, those called off too, in their order."""
    return filters.apply(Slot.objects.order_by("starts_at", "id"))


def _shown(slot: Slot) -> Slot:
    return Slot.objects.with_availability().select_related("doctor", "show").get(pk=slot.pk)
