"""Bookings as a CSV file, for spreadsheets and other programs."""

import csv
import io
import tempfile
import time
from datetime import datetime
from typing import Any, BinaryIO

from django.db.models import OuterRef, Subquery
from import_export.fields import Field
from import_export.resources import Resource

from bookings.models import Booking, BookingEvent, BookingQuerySet

CHUNK = 500  # rows
IN_MEMORY = 2_000_000  # bytes; more than that goes to a file on disk

# What a spreadsheet takes for the start of a formula, the wide forms of some languages included.
FORMULA = tuple("=+-@＝＋－＠\t\r\n")


def _iso(moment: datetime | None, booking: Booking) -> str:
    if moment is None:
        return ""
    return moment.astimezone(booking.slot.zone).isoformat(timespec="seconds")


def _time(name: str) -> Field:
    """A column of one of the booking's times."""
    return Field(
        column_name=name.replace("_", " "),
        dehydrate_method=lambda booking: _iso(getattr(booking, name), booking),
    )


class BookingResource(Resource):
    """The columns. Times are ISO 8601, on the clock of the venue, with its offset from UTC."""

    reference = Field("reference")
    state = Field()
    subject = Field("slot__subject__name", column_name="doctor or show")
    starts_at = Field(column_name="starts at")
    seats = Field()
    quantity = Field("quantity")
    name = Field("name")
    email = Field("email", column_name="e-mail")
    phone = Field("phone")
    account = Field("user__email")
    created_at = _time("created_at")
    confirmed_at = _time("confirmed_at")
    cancelled_at = _time("cancelled_at")
    why = Field(column_name="reason")

    def filter_export(self, queryset: BookingQuerySet, **kwargs: Any) -> BookingQuerySet:
        """Adds what the columns need: still one query, whatever its size."""
        cancelled = BookingEvent.objects.filter(
            booking=OuterRef("pk"), action=BookingEvent.Action.CANCEL
        )
        return queryset.select_related("user", "slot__doctor", "slot__show").annotate(
            cancel_reason=Subquery(cancelled.order_by().values("reason")[:1])
        )

    def export_resource(self, instance: Booking, *args: Any, **kwargs: Any) -> list[Any]:
        return [
            without_formula(cell) for cell in super().export_resource(instance, *args, **kwargs)
        ]

    def dehydrate_state(self, booking: Booking) -> str:
        return Booking.Status(booking.state).label

    def dehydrate_starts_at(self, booking: Booking) -> str:
        return _iso(booking.slot.starts_at, booking)

    def dehydrate_seats(self, booking: Booking) -> str:
        """The names of numbered seats; those of places are nobody's business."""
        return ", ".join(booking.labels) if booking.slot.is_numbered else ""

    def dehydrate_why(self, booking: Booking) -> str:
        if booking.reason:
            return Booking.FailureReason(booking.reason).label
        return booking.cancel_reason or ""


def write_csv(bookings: BookingQuerySet) -> tuple[BinaryIO, int]:
    """A file, open at its beginning, and how many bookings are in it. One query.

    UTF-8 with a byte order mark, without which Excel reads it as something else. The file is whole
    before anything is sent: half a list that looks like a list is worse than none. Its rows come
    and go in chunks, and after each the others on this process have their turn.
    """
    resource = BookingResource()
    file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115  (its reader's)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(resource.get_export_headers())
    file.write(b"\xef\xbb\xbf")
    rows = 0
    queryset = resource.filter_export(bookings)
    for booking in queryset.iterator(chunk_size=CHUNK):
        writer.writerow(resource.export_resource(booking))
        rows += 1
        if rows % CHUNK == 0:
            _move(text, file)
            time.sleep(0)
    _move(text, file)
    file.seek(0)
    return file, rows


def without_formula(cell: Any) -> Any:
    """The cell as text that no spreadsheet takes for a formula: those begin with a quote mark."""
    if isinstance(cell, str) and cell.lstrip(" ").startswith(FORMULA):
        return f"'{cell}"
    return cell


def _move(text: io.StringIO, file: Any) -> None:
    file.write(text.getvalue().encode())
    text.seek(0)
    text.truncate()
