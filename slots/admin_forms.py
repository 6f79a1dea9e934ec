"""What staff may type: times on the clock of the place, rows and places, seats by their labels."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from bookings.forms import CountField
from slots import inventory
from slots.inventory import MOST_IN_A_ROW, MOST_SEATS
from slots.models import Doctor, Show, Slot

YEARS = range(2000, 2200)
MOST_LISTED = 5_000  # characters of a list of labels
MOST_AT_ONCE = 200  # slots made by one form
TIMES = ("starts_at", "ends_at", "opens_at", "closes_at")


# ── Time on the clock of the place ────────────────────────────────────────────────────────────────


class ClockWidget(forms.SplitDateTimeWidget):
    """The browser's own date and time inputs: no script, and a phone's wheels."""

    def __init__(self) -> None:
        super().__init__(
            date_attrs={"type": "date", "aria-label": "Date"},
            date_format="%Y-%m-%d",
            time_attrs={"type": "time", "aria-label": "Time"},
            time_format="%H:%M",
        )


class ClockField(forms.SplitDateTimeField):
    """Date and time as a clock shows them, without a zone: which one, the form finds out."""

    widget = ClockWidget
    default_error_messages = {
        "invalid_date": "Enter the date as year-month-day.",
        "invalid_time": "Enter the time as hours:minutes.",
        "incomplete": "Enter both, the date and the time.",
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(require_all_fields=False, **options)
        for part in self.fields:
            part.required = self.required

    def compress(self, parts: list[Any]) -> datetime | None:
        if not parts or not any(parts):
            return None
        if not all(parts):
            raise ValidationError(self.error_messages["incomplete"])
        return datetime.combine(*parts)


def on_clock(moment: datetime, zone: ZoneInfo) -> datetime:
    """The moment as a clock in that zone shows it, to the minute, without the zone."""
    return moment.astimezone(zone).replace(tzinfo=None, second=0, microsecond=0)


def from_clock(clock: datetime, zone: ZoneInfo) -> datetime:
    """The moment at which clocks in that zone show this. Raises ValidationError unless it is one.

    When summer time begins clocks leave an hour out, and when it ends they show one twice.
    """
    if clock.year not in YEARS:
        raise ValidationError(f"Enter a year from {YEARS[0]} to {YEARS[-1]}.")
    first, second = (clock.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    if first.utcoffset() < second.utcoffset():
        problem = "does not exist: clocks go forward and leave it out"
    else:
        problem = "comes twice: clocks go back and show it again"
    raise ValidationError(
        f"On {clock:%d %B %Y} {clock:%H:%M} {problem} ({zone.key}). Choose another time."
    )


def zone_choices(present: str = "") -> list[tuple[str, Any]]:
    """The world's time zones by region, and the present one whatever it is."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in sorted(available_timezones()):
        region, _, place = name.partition("/")
        if place and region != "Etc":
            groups.setdefault(region, []).append((name, place.replace("_", " ")))
    first = [(name, name) for name in dict.fromkeys(["UTC", present]) if name]
    return [*first, *groups.items()]


class SubjectForm(forms.ModelForm):
    """A doctor or a show, with the zones to choose from."""

    time_zone = forms.ChoiceField(
        help_text="Times are entered and shown on this clock. Slots that exist keep their moment."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if field := self.fields.get("time_zone"):
            field.choices = zone_choices(self.instance.time_zone)
            self.initial.setdefault("time_zone", self.instance.time_zone)


# ── Seats ─────────────────────────────────────────────────────────────────────────────────────────


def seat_count(label: str, most: int, help_text: str = "") -> CountField:
    wrong = f"Enter a whole number from 1 to {most:,}."
    return CountField(
        label=label,
        required=False,
        min_value=1,
        max_value=most,
        help_text=help_text,
        error_messages={"invalid": wrong, "min_value": wrong, "max_value": wrong},
    )


class AisleField(forms.CharField):
    """“5, 12” as [5, 12]."""

    def to_python(self, value: Any) -> list[int]:
        parts = re.split(r"[,;\s]+", super().to_python(value).strip(" ,;"))
        if parts == [""]:
            return []
        if not all(re.fullmatch(r"[0-9]{1,4}", part) for part in parts):
            raise ValidationError("Enter seat numbers with commas between, like 6, 18.")
        numbers = [int(part) for part in parts]
        if len(set(numbers)) < len(numbers):
            raise ValidationError("The same aisle is named twice.")
        return numbers


class RowsForm(forms.Form):
    """Rows of numbered seats, for a slot that may not exist yet."""

    rows = seat_count("Rows", MOST_SEATS)
    seats_per_row = seat_count("Seats in each row", MOST_IN_A_ROW)
    section = forms.CharField(
        max_length=40,
        required=False,
        widget=AdminTextInputWidget,
        help_text="Optional: Stalls, Balcony, …",
    )
    aisles_after = AisleField(
        label="Aisles after seat",
        required=False,
        max_length=500,
        widget=AdminTextInputWidget,
        help_text="Optional: seat numbers behind which the plan leaves a gap, like 6, 18.",
    )
    accessible = forms.CharField(
        label="Wheelchair places",
        required=False,
        max_length=500,
        widget=AdminTextInputWidget,
        help_text="Optional: labels of the new seats, like A1, A10.",
    )

    def clean_rows_for(self, slot: Slot) -> None:
        """Adds an error unless these rows can be added to the slot as it is now."""
        data = self.cleaned_data
        for name in ("rows", "seats_per_row"):
            if name not in self.errors and not data.get(name):
                self.add_error(name, "Say how many.")
        if self.errors:
            return
        rows, width = data["rows"], data["seats_per_row"]
        there = slot.seats.count() if slot.pk else 0
        if there + rows * width > MOST_SEATS:
            self.add_error("rows", f"A slot can have at most {MOST_SEATS:,} seats.")
            return
        if wrong := [aisle for aisle in data["aisles_after"] if not 1 <= aisle < width]:
            self.add_error(
                "aisles_after",
                f"There is no seat on both sides of an aisle after {wrong[0]}: "
                f"the rows have {width} seats.",
            )
        names = inventory.next_row_names(slot, rows)
        labels = [part.upper() for part in re.split(r"[,;\s]+", data["accessible"]) if part]
        for label in labels:
            row = label.rstrip("0123456789")
            number = label[len(row) :]
            if row not in names or not 1 <= int(f"0{number}"[:9]) <= width or number[0] == "0":
                self.add_error(
                    "accessible",
                    f"There will be no seat {label}: the new rows are {_span(names)}, "
                    f"with seats 1 to {width}.",
                )
                return
        data["accessible"] = labels

    def add_rows(self, slot: Slot) -> int:
        names = ("rows", "seats_per_row", "section", "aisles_after", "accessible")
        return inventory.add_rows(slot, **{name: self.cleaned_data[name] for name in names})


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


class AddRowsForm(RowsForm):
    is_relative = True  # twice is more than once

    def __init__(self, *args: Any, slot: Slot, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slot = slot

    def clean(self) -> None:
        self.clean_rows_for(self.slot)

    def apply(self) -> str:
        return f"Added {say_seats(self.add_rows(self.slot))}."


class AddPlacesForm(forms.Form):
    is_relative = True

    places = seat_count("Places to add", MOST_SEATS)

    def __init__(self, *args: Any, slot: Slot, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slot = slot
        self.fields["places"].required = True

    def apply(self) -> str:
        added = inventory.add_places(self.slot, places=self.cleaned_data["places"])
        return f"Added {say_seats(added)}."


ACTIONS = ("block", "unblock", "remove")


class ChangeSeatsForm(forms.Form):
    """Which seats: ticked on the plan, named by label, or (unnumbered places) any so many."""

    reason = forms.CharField(
        max_length=200,
        required=False,
        widget=AdminTextInputWidget,
        help_text="For blocking: staff see it on the plan, patients do not.",
    )

    def __init__(self, *args: Any, slot: Slot, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slot = slot
        if slot.is_numbered:
            self.fields["labels"] = forms.CharField(
                label="Seats",
                required=False,
                max_length=MOST_LISTED,
                widget=AdminTextareaWidget(attrs={"rows": 2}),
                help_text="Tick seats on the plan, or write them here: A1-A10, B3. A letter alone "
                "is a whole row.",
            )
        else:
            self.fields["places"] = seat_count("How many", MOST_SEATS)
            self.fields["places"].required = True
        self.order_fields(["labels", "places", "reason"])

    @property
    def is_relative(self) -> bool:
        """Any so many places; what is done to seats that are named can be done once only."""
        return not self.slot.is_numbered

    def clean(self) -> None:
        self.action = self.data.get("action")
        if self.action not in ACTIONS:
            raise ValidationError("Choose what to do with the seats.")
        if not self.slot.is_numbered or self.errors:
            return
        seats = list(self.slot.seats.order_by("id").values_list("pk", "label", "row", "number"))
        chosen = find_seats(self.cleaned_data["labels"], seats)
        chosen |= self._ticked({pk for pk, *_ in seats})
        if not chosen:
            raise ValidationError("Choose at least one seat.")
        self.cleaned_data["seat_ids"] = chosen

    def ticked(self) -> set[str]:
        """What was ticked, to be ticked again when the form comes back."""
        return set(self.data.getlist("seat")) if self.is_bound else set()

    def _ticked(self, known: set[int]) -> set[int]:
        ids = {int(text) for text in self.ticked() if re.fullmatch(r"[0-9]{1,19}", text)}
        if len(ids) < len(self.ticked()) or not ids <= known:
            raise ValidationError("Some of these seats are no longer there. Choose again.")
        return ids

    def apply(self) -> str:
        """Does it, and returns a sentence. Raises InventoryError."""
        if self.slot.is_numbered:
            change = {"seat_ids": self.cleaned_data["seat_ids"]}
            block, unblock = inventory.block_seats, inventory.unblock_seats
            remove = inventory.remove_seats
        else:
            change = {"places": self.cleaned_data["places"]}
            block, unblock = inventory.block_places, inventory.unblock_places
            remove = inventory.remove_places
        if self.action == "block":
            reason = self.cleaned_data["reason"]
            return f"Blocked {say_seats(block(self.slot, **change, reason=reason))}."
        if self.action == "unblock":
            if changed := unblock(self.slot, **change):
                return f"Put {say_seats(changed)} back on sale."
            raise inventory.InventoryError("None of these seats is blocked.")
        return f"Removed {say_seats(remove(self.slot, **change))}."


def say_seats(number: int) -> str:
    return "1 seat" if number == 1 else f"{number:,} seats"


def find_seats(text: str, seats: Iterable[tuple[int, str, str, int | None]]) -> set[int]:
    """The ids of what “A1-A10, B3, C” names. Raises ValidationError for what is not there.

    `seats`: id, label, row and number of each seat of the slot.
    """
    seats = list(seats)
    by_label = {label.upper(): seat for seat in seats for label in [seat[1]]}
    by_row: dict[str, list[tuple[int, str, str, int | None]]] = {}
    for seat in seats:
        by_row.setdefault(seat[2].upper(), []).append(seat)
    chosen: set[int] = set()
    for part in re.split(r"[,;\n]+", text.upper()):
        name = re.sub(r"\s+", "", part)
        first, dash, last = re.sub("[–—]", "-", name).partition("-")
        if not name:
            continue
        if name in by_label:
            chosen.add(by_label[name][0])
        elif name in by_row:
            chosen |= {seat[0] for seat in by_row[name]}
        elif not dash:
            raise ValidationError(f"There is no seat or row “{part.strip()[:40]}”.")
        else:
            chosen |= _find_range(first, last, by_label, by_row)
    return chosen


def _find_range(first: str, last: str, by_label: dict, by_row: dict) -> set[int]:
    """The ids of A1-A10, or of A1-10."""
    if re.fullmatch("[0-9]{1,9}", last) and first in by_label:
        last = f"{by_label[first][2].upper()}{last}"
    for label in (first, last):
        if label not in by_label:
            raise ValidationError(f"There is no seat “{label[:40]}”.")
    (_, _, row, low), (_, _, other, high) = by_label[first], by_label[last]
    if row != other or low is None or high is None:
        raise ValidationError(
            f"“{first}-{last}” is not within one row. Write a range for each row."
        )
    low, high = sorted((low, high))
    return {seat[0] for seat in by_row[row.upper()] if low <= (seat[3] or 0) <= high}


# ── A slot ────────────────────────────────────────────────────────────────────────────────────────


class SlotForm(forms.ModelForm):
    """The times of a slot, on the clock of its doctor or show."""

    starts_at = ClockField(label="Starts")
    ends_at = ClockField(label="Ends")
    opens_at = ClockField(
        label="Booking opens", required=False, help_text="Empty: as soon as the slot is saved."
    )
    closes_at = ClockField(
        label="Booking closes", required=False, help_text="Empty: when the slot starts."
    )

    class Meta:
        model = Slot
        fields = TIMES

    def read_times(self, subject: Doctor | Show | None) -> None:
        """Turns what the clock showed into moments; adds errors where it cannot."""
        zone = ZoneInfo(subject.time_zone) if subject else None
        for name in TIMES:
            if zone is None:
                self.cleaned_data.pop(name, None)
            elif self.instance.pk and name not in self.changed_data:
                # As it is, to the second, also where the clock alone would not tell which hour.
                self.cleaned_data[name] = getattr(self.instance, name)
            elif clock := self.cleaned_data.get(name):
                try:
                    self.cleaned_data[name] = from_clock(clock, zone)
                except ValidationError as error:
                    self.add_error(name, error)

    def refuse_overlaps(
        self, subject: Doctor | Show, times: Sequence[tuple[datetime, datetime]]
    ) -> None:
        """Adds an error, naming the slot, if there is another one at one of these times: of a
        doctor one that overlaps, of a show one that starts when one of these does.
        """
        others = subject.slots.filter(
            cancelled_at=None, starts_at__lt=times[-1][1], ends_at__gt=times[0][0]
        )
        if isinstance(subject, Show):
            others = others.filter(starts_at__in=[start for start, _ in times])
        for other in others.exclude(pk=self.instance.pk).select_related("doctor", "show"):
            if any(other.starts_at < end and start < other.ends_at for start, end in times):
                url = reverse("admin:slots_slot_change", args=[other.pk])
                when = f"{other.local_start:%a %d %b %Y, %H:%M}–{other.local_end:%H:%M}"
                text = '{} has another slot at this time: <a href="{}">{}</a>.'
                self.add_error("starts_at", format_html(text, subject, url, when))
                return


class SlotChangeForm(SlotForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zone = self.instance.zone
        for name in TIMES:
            if moment := getattr(self.instance, name):
                self.initial[name] = on_clock(moment, zone)
        self.is_booked = self.instance.seats.owned().exists()
        for name in ("starts_at", "ends_at") if self.is_booked else ():
            if name in self.fields:
                self.fields[name].help_text = "Fixed while there are bookings."
                for part in self.fields[name].widget.widgets:
                    part.attrs["readonly"] = True

    def clean(self) -> None:
        super().clean()
        subject = self.instance.subject
        self.read_times(subject)
        if self.is_booked:
            for name in {"starts_at", "ends_at"} & set(self.changed_data):
                self.add_error(
                    name,
                    "People have booked this slot at its present time. Move or cancel their "
                    "bookings first, or add another slot.",
                )
        if not self.errors:
            times = [(self.cleaned_data["starts_at"], self.cleaned_data["ends_at"])]
            self.refuse_overlaps(subject, times)


def _with_zone(subject: Doctor | Show) -> str:
    about = getattr(subject, "specialization", "") or getattr(subject, "venue", "")
    return f"{subject}{', ' if about else ''}{about} ({subject.time_zone})"


class SlotAddForm(SlotForm, RowsForm):
    """A new slot with its seats, or a row of them: a doctor's day."""

    places = seat_count("Number of places", MOST_SEATS, "How many people can book this slot.")
    until = forms.TimeField(
        label="Repeat until",
        required=False,
        widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M"),
        help_text="Optional: one slot after the other, as long as the first, until this time.",
    )
    days = seat_count(
        "Days in a row", 60, "Optional: the same on so many days, the first one included."
    )
    skip_weekends = forms.BooleanField(label="Skip Saturdays and Sundays", required=False)

    class Meta:
        model = Slot
        fields = ("doctor", "show", "seating", *TIMES)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("doctor", "show"):
            self.fields[name].label_from_instance = _with_zone

    def clean(self) -> None:
        super().clean()
        data = self.cleaned_data
        subject = data.get("doctor") or data.get("show")
        first = data.get("starts_at"), data.get("ends_at")
        self.read_times(subject)
        if data.get("seating") == Slot.Seating.NUMBERED:
            self.clean_rows_for(Slot())
        elif "places" not in self.errors and not data.get("places"):
            self.add_error("places", "Say how many.")
        if subject is None:
            return  # as the constraint of the model says
        if not self.errors and data["ends_at"] <= data["starts_at"]:
            self.add_error("ends_at", "The end must be after the start.")
        if not self.errors and data["starts_at"] <= timezone.now():
            self.add_error("starts_at", "This is in the past, so nobody could book it.")
        if not self.errors:
            data["times"] = self._repeat(*first, ZoneInfo(subject.time_zone))
        if not self.errors:
            self._cap_seats(len(data["times"]))
            data["starts_at"], data["ends_at"] = data["times"][0]
            self.refuse_overlaps(subject, data["times"])

    def _cap_seats(self, slots: int) -> None:
        """Adds an error if this form would make more seats than one slot can have."""
        data = self.cleaned_data
        seats = data["places"]
        if data["seating"] == Slot.Seating.NUMBERED:
            seats = data["rows"] * data["seats_per_row"]
        if slots * seats > MOST_SEATS:
            self.add_error(
                None,
                f"These would be {slots} slots with {say_seats(seats)} each. At most "
                f"{MOST_SEATS:,} seats can be made at once: repeat the slot less often.",
            )

    def _repeat(
        self, starts: datetime, ends: datetime, zone: ZoneInfo
    ) -> list[tuple[datetime, datetime]]:
        """Start and end of each slot to be made; adds an error if that is not possible."""
        length, until = ends - starts, self.cleaned_data["until"]
        days = self.cleaned_data["days"] or 1
        if until and (until < ends.time() or ends.date() != starts.date()):
            self.add_error("until", "This is before the end of the first slot.")
            return []
        if days > 1 and length > timedelta(days=1):
            self.add_error("days", "A slot that is longer than a day cannot repeat every day.")
            return []
        times: list[tuple[datetime, datetime]] = []
        day = starts
        while days:
            if not (self.cleaned_data["skip_weekends"] and day.weekday() > 4):
                last = datetime.combine(day.date(), until) if until else day + length
                begin = day
                while begin + length <= last and len(times) <= MOST_AT_ONCE:
                    times.append((begin, begin + length))
                    begin += length
                days -= 1
            day += timedelta(days=1)
        if len(times) > MOST_AT_ONCE:
            self.add_error("until", f"At most {MOST_AT_ONCE} slots can be made at once.")
            return []
        if len(times) > 1 and (self.cleaned_data["opens_at"] or self.cleaned_data["closes_at"]):
            self.add_error(
                None,
                "Slots that repeat can be booked at once and until they start: leave empty when "
                "booking opens and closes.",
            )
            return []
        try:
            return [(from_clock(begin, zone), from_clock(end, zone)) for begin, end in times]
        except ValidationError as error:
            self.add_error("until", error)
            return []

    def save_slots(self) -> list[Slot]:
        """Saves all slots with their seats; the first is this form's. Raises InventoryError."""
        slots = [self.instance]
        for starts_at, ends_at in self.cleaned_data["times"][1:]:
            slots.append(
                Slot(
                    doctor=self.instance.doctor,
                    show=self.instance.show,
                    seating=self.instance.seating,
                    starts_at=starts_at,
                    ends_at=ends_at,
                )
            )
        for slot in slots:
            inventory.insert_slot(slot)
            if slot.is_numbered:
                self.add_rows(slot)
            else:
                inventory.add_places(slot, places=self.cleaned_data["places"])
        return slots


class CancelForm(forms.Form):
    reason = forms.CharField(
        max_length=500,
        required=False,
        widget=AdminTextareaWidget(attrs={"rows": 3}),
        help_text="Optional. It is kept with each booking; the mail to the patients may quote it.",
    )
