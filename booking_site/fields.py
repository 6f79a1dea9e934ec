"""What may stand in a request to the API: types that refuse what the database would choke on."""

import copy
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from django import forms
from django.core.exceptions import ValidationError
from ninja import Schema
from ninja.pagination import LimitOffsetPagination
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

BIGGEST_ID = 2**63 - 1
FIRST_YEAR, LAST_YEAR = 2000, 2999
MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)(Z|[+ -]\d\d:?\d\d)?", re.ASCII
)
NO_MOMENT = "Write it like 2027-03-28T19:30:00+02:00"
TOO_LONG_TEXT = "Write at most %(limit_value)d characters."
HALF_A_CHARACTER = "It contains half a character (a lone surrogate)"


def _plain_digits(value: Any) -> Any:
    """A number in an address: pydantic, like Python, would read 1_0, 1.0 and ١."""
    if isinstance(value, str):
        if not re.fullmatch("-?[0-9]{1,19}", value):  # from which on is said by its field
            raise ValueError("Write a whole number in plain digits")
        return int(value)
    return value


def _read_moment(value: Any) -> Any:
    """An ISO 8601 time with its offset. In an address a plus sign may have become a space."""
    found = MOMENT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(NO_MOMENT)
    if found[2] is None:
        raise ValueError(f"It lacks its offset from UTC. {NO_MOMENT}")
    return found[1] + found[2].replace(" ", "+")


def _within_years(moment: datetime) -> datetime:
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"Choose a time from {FIRST_YEAR} to {LAST_YEAR}")
    return moment.astimezone(UTC)


def as_in(field: forms.Field) -> Callable[[str | None], str]:
    """A check that does what a field of a form does: the same rules, in the same words.

    But for Django's own words of what is too long, which the API's other fields do not use.
    """
    field = copy.deepcopy(field)
    field.error_messages.setdefault("max_length", TOO_LONG_TEXT)

    def clean(value: str | None) -> str:
        try:
            return field.clean(value)
        except ValidationError as error:
            raise ValueError(" ".join(error.messages)) from None

    return clean


def storable(text: str) -> str:
    """The text, if PostgreSQL can keep it. Raises ValueError."""
    if "\x00" in text:
        raise ValueError("It contains the character NUL, which no text has")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(HALF_A_CHARACTER) from None
    return text


Id = Annotated[int, Field(strict=True, ge=1, le=BIGGEST_ID)]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
# The limits come first: after a validator they would not be told in the OpenAPI document.
IdInUrl = Annotated[int, Field(ge=1, le=BIGGEST_ID), BeforeValidator(_plain_digits)]
Limit = Annotated[int, Field(ge=1, le=200), BeforeValidator(_plain_digits)]
Offset = Annotated[int, Field(ge=0, le=10_000_000), BeforeValidator(_plain_digits)]
Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_read_moment),
    AfterValidator(_within_years),
    Field(examples=["2027-03-28T19:30:00+02:00"]),
]
Text = Annotated[str, AfterValidator(storable)]


class Pages(LimitOffsetPagination):
    """`{count, items}`: so many items from that one on; the count is of all."""

    class Input(Schema):
        limit: Limit = 50
        offset: Offset = 0
