"""Bookings in the office: everything is to look at, and three things can be done.

Confirm, cancel and release go through `lifecycle`, one booking after the other, each in a
transaction of its own: nothing here may run inside one. So they are actions of the list, and views
of their own; Django's change view is atomic.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Model, Q, QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.dateformat import format as format_date
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from import_export.admin import ExportMixin

from accounts.models import User
from booking_site.office import OfficeAdmin
from bookings import lifecycle
from bookings.errors import BookingError, InvalidRequest
from bookings.exports import BookingResource, write_csv
from bookings.forms import DetailsForm
from bookings.lifecycle import Holder
from bookings.models import (
    BOOKING_HAS_LAPSED,
    BOOKING_WAS_REFUSED,
    Booking,
    BookingEvent,
    BookingQuerySet,
)
from bookings.search import search_bookings
from slots.models import Doctor, Show, Slot

logger = logging.getLogger("holdfast.office")

MOST_AT_ONCE = 500  # bookings in one action: as many as a form of Django's takes with ease
PATIENCE = 20  # seconds for all of them, before whatever stands in front of the site gives up
NAMED = 10  # references in one message; a cookie carries it
LAPSED = "its hold has lapsed, so its seats are free already"
TOO_LATE = "there was no time left; choose them again"


# ── What can be done ──────────────────────────────────────────────────────────────────────────────


class DeskDetailsForm(DetailsForm):
    """Who comes, as they say at the desk or on the telephone; not everybody has an address."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["email"].required = False
        self.fields["name"].error_messages["required"] = "Write the name of the person who comes."
        self.fields["phone"].help_text = ""
        for field in self.fields.values():
            field.widget.attrs["autocomplete"] = "off"  # not what the clerk's browser remembers


class ReasonForm(forms.Form):
    use_required_attribute = False

    reason = forms.CharField(
        max_length=BookingEvent._meta.get_field("reason").max_length,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="The patient reads it in the mail, and the history keeps it, with your name.",
        error_messages={"required": "Write why: the patient reads it, and the history keeps it."},
    )


class OptionalReasonForm(ReasonForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = False
        self.fields["reason"].help_text = "The history of the booking keeps it, with your name."


def _confirm(booking: Booking, actor: Holder, **details: str) -> Booking:
    """Without details, those given before, or else those of the account.

    Raises InvalidRequest if even those name nobody: who comes could not be told of anything.
    """
    if not details:
        account = booking.user
        if account and not booking.email:
            details = {"name": booking.name or account.name, "email": account.email}
        name = details.get("name", booking.name)
        if booking.state == Booking.Status.PENDING and not name:
            raise InvalidRequest("nobody is named yet: open it and write who comes")
    return lifecycle.confirm(booking, **details, actor=actor)


def _cancel(booking: Booking, actor: Holder, reason: str) -> Booking:
    return lifecycle.cancel(booking, actor=actor, reason=reason, by_staff=True)


def _release(booking: Booking, actor: Holder, reason: str = "") -> Booking:
    return lifecycle.release(booking, actor=actor, reason=reason)


@dataclass(frozen=True)
class Verb:
    """One of the things the desk does to a booking, in its states; the permission is its name."""

    name: str
    done: str
    states: tuple[str, ...]
    form: type[forms.Form]
    act: Callable[..., Booking]
    question: str

    def is_allowed(self, request: HttpRequest) -> bool:
        return request.user.has_perms(["bookings.view_booking", f"bookings.{self.name}_booking"])


CONFIRM = Verb(
    name="confirm",
    done="confirmed",
    states=(Booking.Status.PENDING,),
    form=DeskDetailsForm,
    act=_confirm,
    question="The seats are sold to whom you name here.",
)
RELEASE = Verb(
    name="release",
    done="released",
    states=(Booking.Status.PENDING,),
    form=OptionalReasonForm,
    act=_release,
    question="The seats of this hold will be free for others at once.",
)
CANCEL = Verb(
    name="cancel",
    done="cancelled",
    states=(Booking.Status.PENDING, Booking.Status.CONFIRMED),
    form=ReasonForm,
    act=_cancel,
    question="The seats will be free for others at once. This cannot be undone.",
)
VERBS = (CONFIRM, RELEASE, CANCEL)


# ── The list's filters ────────────────────────────────────────────────────────────────────────────


class StateFilter(admin.SimpleListFilter):
    """By the state as of now. Refused attempts are no bookings: they are in a list of their own."""

    title = "state"
    parameter_name = "state"
    conditions = {
        "held": Q(status=Booking.Status.PENDING) & ~BOOKING_HAS_LAPSED,
        "confirmed": Q(status=Booking.Status.CONFIRMED),
        "cancelled": Q(status=Booking.Status.CANCELLED),
        "lapsed": BOOKING_HAS_LAPSED | Q(failure_reason=Booking.FailureReason.EXPIRED),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        states = [(name, name.capitalize()) for name in self.conditions]
        return [*states, ("refused", "Refused: the seats had gone")]

    def queryset(self, request: HttpRequest, queryset: BookingQuerySet) -> BookingQuerySet:
        if self.value() == "refused":
            return queryset.filter(BOOKING_WAS_REFUSED)
        bookings = queryset.exclude(BOOKING_WAS_REFUSED)
        if self.value() in self.conditions:
            return bookings.filter(self.conditions[self.value()])
        return bookings


class TypedFilter(admin.SimpleListFilter):
    """A filter whose value is typed; beside it there may be some to choose from."""

    template = "admin/bookings/booking/typed_filter.html"
    input_type = "text"
    hint = ""

    def has_output(self) -> bool:
        return True

    def choices(self, changelist: ChangeList) -> Iterable[dict[str, Any]]:
        kept = [
            (name, value)
            for name, values in changelist.filter_params.items()
            for value in values
            if name != self.parameter_name
        ]
        for name in ("q", "o"):
            if value := changelist.params.get(name):
                kept.append((name, value))
        for choice in super().choices(changelist):
            yield choice | {"kept": kept, "filter": self}


class DayFilter(TypedFilter):
    """By the day on which the slot starts, on the clock of this site."""

    title = "day of the slot"
    parameter_name = "day"
    input_type = "date"
    hint = "Day of the slot"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("today", "Today"),
            ("tomorrow", "Tomorrow"),
            ("week", "The next 7 days"),
            ("coming", "Still to come"),
            ("past", "Past"),
        ]

    @property
    def typed(self) -> str:
        return self.value() if self._day() else ""

    def queryset(self, request: HttpRequest, queryset: BookingQuerySet) -> BookingQuerySet:
        today = timezone.localdate()
        one = timedelta(days=1)
        spans = {
            "today": (today, today + one),
            "tomorrow": (today + one, today + 2 * one),
            "week": (today, today + 7 * one),
        }
        if day := self._day():
            first, end = day, day + one
        elif self.value() in spans:
            first, end = spans[self.value()]
        elif self.value() == "coming":
            return queryset.filter(slot__starts_at__gte=timezone.now())
        elif self.value() == "past":
            return queryset.filter(slot__starts_at__lt=timezone.now())
        else:
            return queryset
        return queryset.filter(slot__starts_at__gte=_start(first), slot__starts_at__lt=_start(end))

    def _day(self) -> date | None:
        """The day that was typed; what is none filters nothing."""
        try:
            day = date.fromisoformat(self.value() or "")
        except ValueError:
            return None
        return day if 1900 <= day.year <= 9000 else None


class SubjectFilter(TypedFilter):
    """By doctor or show. Typed: there may be thousands of them."""

    title = "doctor or show"
    parameter_name = "subject"
    hint = "Part of the name"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    @property
    def typed(self) -> str:
        return self.value() or ""

    def queryset(self, request: HttpRequest, queryset: BookingQuerySet) -> BookingQuerySet:
        if not self.typed or "\0" in self.typed:
            return queryset
        doctors = Doctor.objects.filter(name__icontains=self.typed).values("pk")
        shows = Show.objects.filter(name__icontains=self.typed).values("pk")
        slots = Slot.objects.filter(Q(doctor__in=doctors) | Q(show__in=shows))
        return queryset.filter(slot__in=slots.values("pk"))


class ChosenFilter(admin.SimpleListFilter):
    """By one slot, doctor, show or person whose page linked here. Shown only while it is in use."""

    model: type[Model]
    one: Model | None

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        value = self.used_parameters.get(self.parameter_name)
        if value is None:
            return []
        self.one = None
        if re.fullmatch("[0-9]{1,18}", value):
            self.one = self.model.objects.filter(pk=value).first()
        return [(value, str(self.one or "unknown"))]

    def queryset(self, request: HttpRequest, queryset: BookingQuerySet) -> BookingQuerySet:
        if self.one is None:
            return queryset.none()
        return queryset.filter(**{self.parameter_name: self.one.pk})


class SlotFilter(ChosenFilter):
    title, parameter_name, model = "slot", "slot__id__exact", Slot


class DoctorFilter(ChosenFilter):
    title, parameter_name, model = "doctor", "slot__doctor__id__exact", Doctor


class ShowFilter(ChosenFilter):
    title, parameter_name, model = "show", "slot__show__id__exact", Show


class UserFilter(ChosenFilter):
    title, parameter_name, model = "account", "user__id__exact", User


# ── The list and the page ─────────────────────────────────────────────────────────────────────────


@admin.register(Booking)
class BookingAdmin(ExportMixin, OfficeAdmin):
    list_display = (
        "reference",
        "state_now",
        "what",
        "who",
        "made",
    )
    list_filter = (
        StateFilter,
        DayFilter,
        SubjectFilter,
        ("created_at", admin.DateFieldListFilter),
        SlotFilter,
        DoctorFilter,
        ShowFilter,
        UserFilter,
    )
    # Searched by `search_bookings`; the field only makes Django show the box.
    search_fields = ("reference",)
    search_help_text = "Reference, name, e-mail address, telephone number, or the booking's link"
    sortable_by = ("made",)
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # a count for each choice of each filter
    list_per_page = 50
    list_max_show_all = 200
    actions = ("confirm_selected", "release_selected", "cancel_selected")
    fieldsets = (
        (None, {"fields": ("state_now", "subject", "when", "seats_booked")}),
        ("Who", {"fields": ("name", "email", "phone", "holder")}),
        ("Times", {"fields": ("made", "held_until", "confirmed", "cancelled")}),
    )
    resource_classes = [BookingResource]
    import_export_change_list_template = "admin/bookings/booking/change_list.html"
    change_form_template = "admin/bookings/booking/change_form.html"

    def get_queryset(self, request: HttpRequest) -> BookingQuerySet:
        return Booking.objects.for_page().select_related("user").order_by("-created_at", "id")

    def get_search_results(
        self, request: HttpRequest, queryset: BookingQuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        return search_bookings(queryset, search_term), False

    # Who may do what

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Booking | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Booking | None = None) -> bool:
        return False

    def has_confirm_permission(self, request: HttpRequest) -> bool:
        return CONFIRM.is_allowed(request)

    def has_release_permission(self, request: HttpRequest) -> bool:
        return RELEASE.is_allowed(request)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return CANCEL.is_allowed(request)

    def has_export_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perms(["bookings.view_booking", "bookings.export_booking"])

    # Columns and fields

    @admin.display(description="State")
    def state_now(self, booking: Booking) -> SafeString:
        label = Booking.Status(booking.state).label
        if booking.reason == Booking.FailureReason.EXPIRED:
            label = "lapsed"
        elif booking.reason:
            label = Booking.FailureReason(booking.reason).label
        return format_html(
            '<span class="booking-state" data-state="{}">{}</span>', booking.state, label
        )

    @admin.display(description="Doctor or show")
    def subject(self, booking: Booking) -> str:
        return str(booking.slot.subject)

    @admin.display(description="When")
    def when(self, booking: Booking) -> SafeString:
        slot = booking.slot
        said = _say(slot.starts_at, booking)
        if slot.cancelled_at:
            said = format_html("{} <strong>called off</strong>", said)
        return said

    @admin.display(description="Booked")
    def seats_booked(self, booking: Booking) -> str:
        if booking.slot.is_numbered and booking.labels:
            return f"Seat{_s(booking.quantity)} {', '.join(booking.labels)}"
        return f"{booking.quantity} place{_s(booking.quantity)}"

    @admin.display(description="What")
    def what(self, booking: Booking) -> SafeString:
        lines = (self.subject(booking), self.when(booking), self.seats_booked(booking))
        return format_html("{}<br>{}<br>{}", *lines)

    @admin.display(description="Who")
    def who(self, booking: Booking) -> SafeString:
        account = booking.user
        lines = [
            booking.name or (account.name if account else ""),
            booking.email or (account.email if account else ""),
            booking.phone,
        ]
        return format_html_join(SafeString("<br>"), "{}", ((line,) for line in lines if line))

    @admin.display(description="Account")
    def holder(self, booking: Booking) -> str:
        return booking.user.email if booking.user else "None: booked as a guest"

    @admin.display(description="Made", ordering="created_at")
    def made(self, booking: Booking) -> str:
        return _say(booking.created_at, booking)

    @admin.display(description="Held until")
    def held_until(self, booking: Booking) -> str:
        is_hold = booking.status == Booking.Status.PENDING or booking.reason == "expired"
        return _say(booking.expires_at if is_hold else None, booking, "H:i:s")

    @admin.display(description="Confirmed")
    def confirmed(self, booking: Booking) -> str:
        return _say(booking.confirmed_at, booking)

    @admin.display(description="Cancelled")
    def cancelled(self, booking: Booking) -> str:
        return _say(booking.cancelled_at, booking)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """The page of one booking: with its history, and what can be done now."""
        booking = kwargs["obj"]
        user = request.user
        context["verbs"] = [
            verb for verb in VERBS if booking.state in verb.states and verb.is_allowed(request)
        ]
        context["history"] = _history(booking)
        context["title"] = f"Booking {booking.reference}"
        context["subtitle"] = None
        context["slot_url"] = user.has_perm("slots.view_slot") and reverse(
            "admin:slots_slot_change", args=[booking.slot_id]
        )
        context["user_url"] = (
            booking.user
            and user.has_perm("accounts.view_user")
            and reverse("admin:accounts_user_change", args=[booking.user_id])
        )
        return super().render_change_form(request, context, *args, **kwargs)

    def history_view(self, request: HttpRequest, object_id: str, *args: Any) -> HttpResponse:
        """The history that counts is on the booking's page."""
        return redirect("admin:bookings_booking_change", object_id)

    # Actions

    @admin.action(description="Confirm the chosen holds", permissions=["confirm"])
    def confirm_selected(self, request: HttpRequest, queryset: BookingQuerySet) -> None:
        if (bookings := self._chosen(request, queryset)) is not None:
            self._act(request, CONFIRM, bookings)

    @admin.action(description="Release the chosen holds", permissions=["release"])
    def release_selected(self, request: HttpRequest, queryset: BookingQuerySet) -> None:
        if (bookings := self._chosen(request, queryset)) is not None:
            self._act(request, RELEASE, bookings)

    @admin.action(description="Cancel the chosen bookings…", permissions=["cancel"])
    def cancel_selected(
        self, request: HttpRequest, queryset: BookingQuerySet
    ) -> HttpResponse | None:
        """First a page that asks why, then, from there, the deed."""
        bookings = self._chosen(request, queryset)
        if bookings is None:
            return None
        form = ReasonForm(request.POST if "asked" in request.POST else None)
        if form.is_valid():
            self._act(request, CANCEL, bookings, **form.cleaned_data)
            return None
        hidden = [(ACTION_CHECKBOX_NAME, booking.pk) for booking in bookings]
        hidden += [("action", "cancel_selected"), ("asked", "yes")]
        return self._ask(
            request, CANCEL, bookings, form, back=request.get_full_path(), hidden=hidden
        )

    def _chosen(self, request: HttpRequest, queryset: BookingQuerySet) -> list[Booking] | None:
        """The bookings to act on, or None, and a message, if they are too many.

        Those ticked are taken whether or not the list's filter still has them: a hold that has
        lapsed since is to be reported, not to drop out without a word.
        """
        if request.POST.get("select_across", "0") != "1":
            ids = request.POST.getlist(ACTION_CHECKBOX_NAME)
            queryset = self.get_queryset(request).filter(pk__in=ids)
        bookings = list(queryset[: MOST_AT_ONCE + 1])
        if len(bookings) <= MOST_AT_ONCE:
            return bookings
        sentence = (
            f"Those are more than {MOST_AT_ONCE} bookings, and nothing was done. "
            "Choose fewer, with a filter or page by page."
        )
        self.message_user(request, sentence, messages.ERROR)
        return None

    def _act(
        self, request: HttpRequest, verb: Verb, bookings: list[Booking], **details: str
    ) -> None:
        """Does it to each, and says what was done, what was skipped, and why."""
        actor = Holder(user=request.user)
        deadline = time.monotonic() + PATIENCE
        done = 0
        skipped: dict[str, list[str]] = {}
        for booking in bookings:
            why = TOO_LATE
            if time.monotonic() < deadline:
                why = _do(verb, booking, actor, details)
            if why:
                skipped.setdefault(why, []).append(booking.reference)
            else:
                done += 1
        if done:
            sentence = f"{done} booking{_s(done)} {verb.done}."
            self.message_user(request, sentence, messages.SUCCESS)
        for why, references in skipped.items():
            named = ", ".join(references[:NAMED])
            if more := len(references) - NAMED:
                named += f" and {more} more" if more > 0 else ""
            sentence = f"{len(references)} skipped: {named} ({why})."
            self.message_user(request, sentence, messages.WARNING)
        logger.info("%s by user %s: %s done of %s", verb.name, actor.user.pk, done, len(bookings))

    # Pages of our own

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                f"<uuid:booking_id>/{verb.name}/",
                self.admin_site.admin_view(self._view_of(verb)),
                name=f"bookings_booking_{verb.name}",
            )
            for verb in VERBS
        ]
        return own + super().get_urls()

    def _view_of(self, verb: Verb) -> Callable[..., HttpResponse]:
        def view(request: HttpRequest, booking_id: UUID) -> HttpResponse:
            return self.verb_view(request, booking_id, verb)

        return view

    def verb_view(self, request: HttpRequest, booking_id: UUID, verb: Verb) -> HttpResponse:
        """Confirm, release or cancel one booking: GET asks, POST acts."""
        if not verb.is_allowed(request):
            raise PermissionDenied
        booking = self.get_queryset(request).filter(pk=booking_id).first()
        if booking is None:
            raise Http404("There is no such booking.")
        page = redirect("admin:bookings_booking_change", booking.pk)
        form = verb.form(request.POST if request.method == "POST" else None)
        if form.is_valid():
            self._act(request, verb, [booking], **form.cleaned_data)
            return page
        if booking.state not in verb.states:
            # Somebody else was quicker, or the page had been open for long: no use in asking.
            self.message_user(request, f"Nothing to do: {_why_not(booking)}.", messages.WARNING)
            return page
        if verb is CONFIRM and not form.is_bound:
            form.initial = {
                "name": booking.name or getattr(booking.user, "name", ""),
                "email": booking.email or getattr(booking.user, "email", ""),
                "phone": booking.phone,
            }
        return self._ask(request, verb, [booking], form, back=page.url)

    def _ask(
        self,
        request: HttpRequest,
        verb: Verb,
        bookings: list[Booking],
        form: forms.Form,
        *,
        back: str,
        hidden: Iterable[tuple[str, Any]] = (),
    ) -> HttpResponse:
        one = bookings[0] if len(bookings) == 1 else None
        what = f"booking {one.reference}" if one else f"{len(bookings)} bookings"
        context = {
            **self.admin_site.each_context(request),
            "title": f"{verb.name.capitalize()} {what}",
            "opts": self.opts,
            "media": self.media,
            "verb": verb,
            "rows": [self._row(booking) for booking in bookings],
            "form": form,
            "hidden": hidden,
            "back": back,
        }
        request.current_app = self.admin_site.name
        status = 400 if form.is_bound else 200
        return TemplateResponse(request, "admin/bookings/booking/ask.html", context, status=status)

    def _row(self, booking: Booking) -> dict[str, Any]:
        return {
            "url": reverse("admin:bookings_booking_change", args=[booking.pk]),
            "reference": booking.reference,
            "state": self.state_now(booking),
            "what": self.what(booking),
            "who": self.who(booking),
        }

    # Export

    def export_action(self, request: HttpRequest) -> HttpResponse:
        """The list as it is filtered and searched, as a CSV file."""
        if not self.has_export_permission(request):
            raise PermissionDenied
        try:
            with self.sensible_filters(request):
                bookings = self.get_export_queryset(request)
        except IncorrectLookupParameters:
            return redirect("admin:bookings_booking_changelist")
        file, rows = write_csv(bookings)
        logger.info("export by user %s: %s bookings", request.user.pk, rows)
        name = f"bookings-{timezone.localdate():%Y-%m-%d}.csv"
        return FileResponse(file, as_attachment=True, filename=name, content_type="text/csv")


def _do(verb: Verb, booking: Booking, actor: Holder, details: dict[str, str]) -> str:
    """Does it to one; returns why not, or an empty text if it is done."""
    try:
        after = verb.act(booking, actor, **details)
    except BookingError as refusal:
        now = Booking.objects.with_state().get(pk=booking.pk)
        if now.reason == Booking.FailureReason.EXPIRED:
            return LAPSED
        return str(refusal).rstrip(".")
    return "" if after.has_changed else _why_not(after)


def _why_not(booking: Booking) -> str:
    """Why nothing can, or need, be done with a booking in its state."""
    if booking.reason == Booking.FailureReason.EXPIRED:
        return LAPSED
    return f"it is {Booking.Status(booking.state).label} already"


def _history(booking: Booking) -> list[dict[str, Any]]:
    """What became of the booking, the first thing first. Its own row records how it began."""
    held = "was refused" if booking.status == "FAILED" and booking.reason != "expired" else "held"
    rows = [
        {
            "at": _say(booking.created_at, booking, "H:i:s"),
            "what": held,
            "who": booking.user.email if booking.user else "guest",
        }
    ]
    for event in booking.events.all():
        rows.append(
            {
                "at": _say(event.at, booking, "H:i:s"),
                "what": event.get_action_display(),
                "change": (event.get_from_status_display(), event.get_to_status_display()),
                "who": event.actor,
                "why": event.reason,
            }
        )
    return rows


def _s(number: int) -> str:
    """The ending of a plural."""
    return "" if number == 1 else "s"


def _start(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, datetime.min.time()))


def _say(moment: datetime | None, booking: Booking, clock: str = "H:i") -> str:
    """A time on the clock of the venue, whose zone is named."""
    if moment is None:
        return "–"
    local = moment.astimezone(booking.slot.zone)
    return format_html(
        '<time datetime="{}">{}</time> <span class="zone">{}</span>',
        local.isoformat(),
        format_date(local, f"D j M Y, {clock}"),
        booking.slot.subject.time_zone,
    )
