"""What people may ask of the lists, in the address. What cannot be read is said, and left out."""

from datetime import date, timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone

from slots.models import Doctor, Show

MOST_WORDS = 8  # each is looked for in every row
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2999, 12, 31)


class WordsField(forms.CharField):
    """What to search for, with commas and the like left out."""

    def __init__(self, *, label: str) -> None:
        too_long = "Search for something shorter: at most 100 characters."
        attrs = {"type": "search", "placeholder": label, "autocomplete": "off"}
        super().__init__(
            label=f"Search by {label.lower()}",
            max_length=100,
            required=False,
            error_messages={"max_length": too_long},
            widget=forms.TextInput(attrs=attrs),
        )

    def clean(self, value: str | None) -> str:
        words = super().clean(value).replace(",", " ").replace(";", " ").split()
        if len(words) > MOST_WORDS:
            raise ValidationError(f"Search for at most {MOST_WORDS} words.")
        return " ".join(words)


class DayField(forms.DateField):
    """A day as in 2027-03-28."""

    def __init__(self, **options: Any) -> None:
        widget = forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"})
        super().__init__(required=False, input_formats=["%Y-%m-%d"], widget=widget, **options)

    def to_python(self, value: str | None) -> date | None:
        try:
            day = super().to_python(value)
        except ValidationError:
            raise ValidationError(
                f"“{value[:20]}” is no day that can be read. Write it like 2027-03-28."
            ) from None
        if day and not FIRST_DAY <= day <= LAST_DAY:
            raise ValidationError(f"Choose a day from {FIRST_DAY.year} to {LAST_DAY.year}.")
        return day


def validate_not_past(day: date) -> None:
    """Past everywhere: in some zone it is still the day before."""
    if day < timezone.now().date() - timedelta(days=1):
        raise ValidationError("This day is past. Choose a later one.")


class OneOfField(forms.ChoiceField):
    """One of what there is, or all."""

    def __init__(self, *, label: str, everything: str, unknown: str) -> None:
        self.everything = everything
        super().__init__(label=label, required=False, error_messages={"invalid_choice": unknown})

    def offer(self, values: list[str]) -> None:
        self.choices = [("", self.everything), *((value, value) for value in values)]


class FilterForm(forms.Form):
    """Bound to the address. `more` are the fields that a small screen folds away."""

    more: tuple[str, ...] = ()

    def __init__(self, data: Any) -> None:
        super().__init__(data, label_suffix="")

    @property
    def chosen(self) -> dict[str, Any]:
        """What could be read, by field; the others as if nothing were said."""
        self.is_valid()
        return {name: self.cleaned_data.get(name) or "" for name in self.fields}

    @property
    def is_used(self) -> bool:
        """Whether anything is left out of the list."""
        return any(value for name, value in self.chosen.items() if name != "sort")

    @property
    def first_fields(self) -> list[forms.BoundField]:
        return [field for field in self if field.name not in self.more]

    @property
    def more_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.more]

    @property
    def is_more_used(self) -> bool:
        return any(self.data.get(name) for name in self.more)


class DoctorFilters(FilterForm):
    more = ("on", "sort")

    q = WordsField(label="Name or specialization")
    specialization = OneOfField(
        label="Specialization",
        everything="Any specialization",
        unknown="No doctor here has this specialization. Choose one of the list.",
    )
    on = DayField(label="Free on", validators=[validate_not_past])
    sort = forms.ChoiceField(
        label="Order",
        required=False,
        choices=[("", "Soonest free time first"), ("name", "By name")],
        error_messages={"invalid_choice": "This order is not known. Choose one of the list."},
    )

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.fields["specialization"].offer(Doctor.objects.values_of("specialization"))


class SpanForm(FilterForm):
    """From one day to another: `from`, which Python keeps for itself, and `to`."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.fields["from"] = DayField(label="From")
        self.fields["to"] = DayField(label="To", validators=[validate_not_past])

    def clean(self) -> None:
        first, last = self.cleaned_data.get("from"), self.cleaned_data.get("to")
        if first and last and last < first:
            self.add_error("to", "The last day is before the first one. Choose a later one.")


class ShowFilters(SpanForm):
    more = ("from", "to")

    q = WordsField(label="Name, venue or description")
    venue = OneOfField(
        label="Venue",
        everything="Any venue",
        unknown="There are no shows at this venue. Choose one of the list.",
    )

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.fields["venue"].offer(Show.objects.values_of("venue"))


class DateFilters(SpanForm):
    """The dates of one show."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.fields["available"] = forms.BooleanField(
            label="Only dates with places left", required=False
        )


class WeekForm(FilterForm):
    """From which day on to show a doctor's times."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.fields["from"] = DayField(label="From")
