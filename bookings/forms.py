"""What people may send: which seats, and who comes."""

import re
from collections.abc import Sequence
from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

from slots.models import Slot

BIGGEST_ID = 2**63 - 1
UNREADABLE = "The choice of seats could not be read. Please choose again."


class SeatIdsField(forms.Field):
    """Checkboxes named `seat`, as a list of different seat ids."""

    widget = forms.MultipleHiddenInput

    def to_python(self, values: Sequence[str] | None) -> list[int]:
        values = values or []
        if len(values) > settings.MAX_SEATS_PER_BOOKING:
            raise ValidationError(
                f"At most {settings.MAX_SEATS_PER_BOOKING} seats can be booked at once."
            )
        if not all(re.fullmatch(r"[0-9]{1,19}", value) for value in values):
            raise ValidationError(UNREADABLE)
        ids = [int(value) for value in values]
        if not all(1 <= number <= BIGGEST_ID for number in ids):
            raise ValidationError(UNREADABLE)
        if len(set(ids)) != len(ids):
            raise ValidationError("The same seat is named twice.")
        return ids


class CountField(forms.IntegerField):
    """A number in plain digits: Python, and so Django's own field, reads 1_0 as ten."""

    def to_python(self, value: str | None) -> int | None:
        if value and not re.fullmatch(r" *[0-9]{1,6} *", value):
            raise ValidationError(self.error_messages["invalid"])
        return super().to_python(value)


class SeatForm(forms.Form):
    """Named seats of a numbered slot, or how many of an unnumbered one; `key` against doubles."""

    def __init__(self, data: Any, *, slot: Slot) -> None:
        super().__init__(data)
        if slot.is_numbered:
            wanted = "Choose at least one seat."
            self.fields["seat"] = SeatIdsField(error_messages={"required": wanted})
        else:
            most = settings.MAX_SEATS_PER_BOOKING
            wanted = f"Choose how many places, from 1 to {most}."
            codes = ("required", "invalid", "min_value", "max_value")
            self.fields["quantity"] = CountField(
                min_value=1, max_value=most, error_messages=dict.fromkeys(codes, wanted)
            )

    @property
    def wish(self) -> dict[str, Any]:
        """What `lifecycle.hold` is asked for."""
        if "seat" in self.fields:
            return {"seat_ids": self.cleaned_data["seat"]}
        return {"quantity": self.cleaned_data["quantity"]}

    @property
    def sentence(self) -> str:
        """What is wrong, for people."""
        return " ".join(message for messages in self.errors.values() for message in messages)


class DetailsForm(forms.Form):
    """Who comes, and how to reach them. Sent with mistakes, it puts the cursor to the first."""

    use_required_attribute = False

    name = forms.CharField(
        label="Name",
        max_length=150,
        validators=[RegexValidator(r"^[^\x00-\x1f\x7f]*$", "Write the name on one line.")],
        error_messages={"required": "Please tell us your name."},
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
    )
    email = forms.EmailField(
        label="E-mail address",
        max_length=254,
        error_messages={
            "required": "Please tell us your e-mail address.",
            "invalid": "This is not an e-mail address; it should look like name@example.org.",
        },
        widget=forms.EmailInput(attrs={"autocomplete": "email"}),
    )
    phone = forms.CharField(
        label="Telephone",
        max_length=40,
        required=False,
        help_text="Only if something changes at short notice.",
        validators=[
            RegexValidator(
                r"^[0-9+][0-9 ()/.\-]*$", "Only digits, spaces and + ( ) / . - belong here."
            )
        ],
        widget=forms.TextInput(attrs={"autocomplete": "tel", "type": "tel"}),
    )

    def full_clean(self) -> None:
        super().full_clean()
        for field in list(self.errors)[:1]:
            self.fields[field].widget.attrs["autofocus"] = True

    def refuse(self, field: str, message: str) -> None:
        """Another mistake, found by what only the view knows."""
        self.add_error(field, message)
        self.fields[field].widget.attrs["autofocus"] = True
