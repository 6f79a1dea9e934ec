"""The office's inventory: doctors, shows, slots and their seats.

Seats and times go through `inventory`, calling a slot off through `lifecycle`. Adding, changing and
deleting are Django's views, each one transaction; what needs transactions of its own is a view of
ours: the seats of a slot, and cancelling it.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected as django_delete_selected
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, connection, transaction
from django.db.models import Count, Exists, F, OuterRef, ProtectedError, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce, Now
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html

from booking_site.office import OfficeAdmin
from bookings import lifecycle
from bookings.errors import SlotBusy, SweeperRunning
from bookings.lifecycle import Holder
from bookings.models import Booking
from slots import admin_plan, inventory
from slots.admin_forms import (
    AddPlacesForm,
    AddRowsForm,
    CancelForm,
    ChangeSeatsForm,
    SlotAddForm,
    SlotChangeForm,
    SubjectForm,
)
from slots.inventory import InventoryError
from slots.models import SEAT_IS_AVAILABLE, Doctor, Seat, Show, Slot, SlotQuerySet

BATCHES = 20  # of lapsed holds, released before staff change seats
MOST_NAMED = 10  # bookings in one message; a cookie carries it


class DeletionRefused(OfficeAdmin):
    """Deleting says why it cannot be done: beforehand, and if somebody was quicker meanwhile."""

    actions = ["delete_selected"]

    def why_kept(self, objects: Iterable[Any]) -> list[str]:
        """A sentence for each of the objects that cannot be deleted."""
        raise NotImplementedError

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple:
        """What the pages of Django's admin tell about deleting: the objects, and what forbids it.

        Not what belongs to them: a hall has thousands of seats.
        """
        objects = list(objs)
        return [str(each) for each in objects], {}, set(), self.why_kept(objects)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict | None = None
    ) -> HttpResponse:
        def delete() -> HttpResponse:
            return super(DeletionRefused, self).delete_view(request, object_id, extra_context)

        return self._or_refuse(request, delete)

    @admin.action(permissions=["delete"], description="Delete selected %(verbose_name_plural)s")
    def delete_selected(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        def delete() -> HttpResponse | None:
            with transaction.atomic():
                return django_delete_selected(self, request, queryset)

        return self._or_refuse(request, delete)

    def _or_refuse(self, request: HttpRequest, delete: Callable[[], Any]) -> Any:
        """Runs it; what the database refuses after all is a message. Nothing is deleted then."""
        try:
            return delete()
        except InventoryError as error:
            refusal = str(error)
        except (ProtectedError, IntegrityError):
            refusal = "Somebody has just added something to it, so it was not deleted."
        self.message_user(request, refusal, messages.ERROR)
        return redirect(request.get_full_path())


class SubjectAdmin(DeletionRefused):
    """Doctors and shows."""

    form = SubjectForm
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        """With the next date, and how many slots are to come."""
        of_subject = {self.opts.model_name: OuterRef("pk")}
        coming = Slot.objects.upcoming().filter(**of_subject)
        counted = coming.order_by().values(self.opts.model_name).annotate(n=Count("*"))
        return (
            super()
            .get_queryset(request)
            .annotate(
                next_at=Subquery(coming.values("starts_at")[:1]),
                coming=Coalesce(Subquery(counted.values("n")), 0),
            )
        )

    @admin.display(description="next date", ordering=F("next_at").asc(nulls_last=True))
    def next_date(self, subject: Doctor | Show) -> str:
        if subject.next_at is None:
            return "—"
        return f"{subject.next_at.astimezone(ZoneInfo(subject.time_zone)):%a %d %b %Y, %H:%M %Z}"

    @admin.display(description="upcoming slots", ordering="coming")
    def coming_slots(self, subject: Doctor | Show) -> str:
        if not subject.coming:
            return "0"
        query = {f"{self.opts.model_name}__id__exact": subject.pk}
        url = reverse("admin:slots_slot_changelist", query=query)
        return format_html('<a href="{}">{}</a>', url, subject.coming)

    def delete_model(self, request: HttpRequest, obj: Doctor | Show) -> None:
        self.delete_queryset(request, self.model.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        queryset.delete()
        # Not at the commit, when staff have been told that it worked.
        connection.check_constraints()

    def why_kept(self, objects: Iterable[Doctor | Show]) -> list[str]:
        ids = [subject.pk for subject in objects]
        counted = self.model.objects.filter(pk__in=ids, slots__isnull=False)
        return [
            f"{subject} has {_say(subject.n, 'slot')}. Delete those first; "
            "slots that were booked are kept for the record."
            for subject in counted.annotate(n=Count("slots")).order_by("name", "pk")
        ]


@admin.register(Doctor)
class DoctorAdmin(SubjectAdmin):
    list_display = ("name", "specialization", "next_date", "coming_slots", "time_zone")
    list_filter = ("specialization",)
    search_fields = ("name", "specialization")


@admin.register(Show)
class ShowAdmin(SubjectAdmin):
    list_display = ("name", "venue", "next_date", "coming_slots", "time_zone")
    list_filter = ("venue",)
    search_fields = ("name", "venue")


# ── The list of slots ─────────────────────────────────────────────────────────────────────────────


class WhenFilter(admin.SimpleListFilter):
    """What is over is looked for on purpose, so it is left out unless a date is asked for."""

    title = "time"
    parameter_name = "when"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple]:
        return [("today", "Today"), ("week", "Next 7 days"), ("past", "Past"), ("all", "All")]

    def choices(self, changelist: ChangeList) -> Any:
        chosen = list(super().choices(changelist))
        return [chosen[0] | {"display": "Not over yet"}, *chosen[1:]]

    def queryset(self, request: HttpRequest, slots: QuerySet) -> QuerySet:
        match self.value():
            case "today":
                return on_day_of_place(slots)
            case "week":
                return slots.filter(ends_at__gt=Now(), starts_at__lt=Now() + timedelta(days=7))
            case "past":
                return slots.filter(ends_at__lte=Now())
            case None if not any(key.startswith("starts_at__") for key in request.GET):
                return slots.filter(ends_at__gt=Now())
        return slots


def on_day_of_place(slots: SlotQuerySet) -> SlotQuerySet:
    """Slots that start today, by the calendar of where they take place: one more query for the
    zones of doctors, and one for those of shows. Index: slot_by_start.
    """
    now = timezone.now()
    found = slots.none()
    for of, subjects in (("doctor", Doctor.objects), ("show", Show.objects)):
        zones_by_day: dict[date, list[str]] = {}
        for zone in subjects.values_of("time_zone"):
            zones_by_day.setdefault(now.astimezone(ZoneInfo(zone)).date(), []).append(zone)
        for day, zones in zones_by_day.items():
            found |= slots.in_local_days(day, day, of=of, zones=zones)
    return found


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple]:
        return [(state, STATES[state]) for state in STATES if state != "closed"]

    def queryset(self, request: HttpRequest, slots: QuerySet) -> QuerySet:
        live = slots.filter(cancelled_at=None)
        coming = live.filter(starts_at__gt=Now())
        seats = Seat.objects.filter(slot=OuterRef("pk"))
        is_left = Exists(seats.free()) | Exists(seats.lapsed())
        match self.value():
            case "open":
                return slots.filter(pk__in=Slot.objects.bookable().values("pk"))
            case "not_yet":
                return coming.filter(opens_at__gt=Now())
            case "sold_out":
                return coming.exclude(is_left)
            case "begun":
                return live.filter(starts_at__lte=Now(), ends_at__gt=Now())
            case "past":
                return live.filter(ends_at__lte=Now())
            case "cancelled":
                return slots.exclude(cancelled_at=None)
        return slots


class SubjectFilter(admin.RelatedOnlyFieldListFilter):
    """Doctors or shows that have slots."""

    include_empty_choice = False


STATES = {
    "open": "Open",
    "not_yet": "Not open yet",
    "sold_out": "Sold out",
    "closed": "Booking closed",
    "begun": "Going on",
    "past": "Past",
    "cancelled": "Cancelled",
}


def state_of(slot: Slot, available: int) -> str:
    """One of STATES, at `slot.now`."""
    if slot.cancelled_at:
        return "cancelled"
    if slot.ends_at <= slot.now:
        return "past"
    if slot.starts_at <= slot.now:
        return "begun"
    if slot.opens_at and slot.now < slot.opens_at:
        return "not_yet"
    if not available:
        return "sold_out"
    return "open" if slot.is_bookable(slot.now) else "closed"


NO_SEATS = {"total": 0, "available": 0, "booked": 0, "blocked": 0}


def count_seats(slots: Iterable[Slot]) -> None:
    """Gives each slot its `counts`: one grouped query for all of them."""
    slots = list(slots)
    counted = (
        Seat.objects.filter(slot__in=[slot.pk for slot in slots])
        .order_by()
        .values("slot")
        .annotate(
            total=Count("*"),
            available=Count("pk", filter=SEAT_IS_AVAILABLE),
            booked=Count("pk", filter=Q(booking__isnull=False, held_until=None)),
            blocked=Count("pk", filter=Q(blocked=True)),
        )
    )
    by_slot = {row.pop("slot"): row for row in counted}
    for slot in slots:
        slot.counts = dict(by_slot.get(slot.pk, NO_SEATS))
        counts = slot.counts
        counts["held"] = (
            counts["total"] - counts["available"] - counts["booked"] - counts["blocked"]
        )


class SlotList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        count_seats(self.result_list)


# ── Slots ─────────────────────────────────────────────────────────────────────────────────────────


def _say(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"


@admin.register(Slot)
class SlotAdmin(DeletionRefused):
    list_display = ("subject_name", "when", "fill", "state")
    list_filter = (
        WhenFilter,
        StateFilter,
        ("doctor", SubjectFilter),
        ("show", SubjectFilter),
    )
    date_hierarchy = "starts_at"
    search_fields = ("doctor__name", "doctor__specialization", "show__name", "show__venue")
    search_help_text = "Doctor, specialization, show or venue"
    list_per_page = 50
    show_full_result_count = False
    radio_fields = {"seating": admin.HORIZONTAL}
    actions = ["cancel_selected", "delete_selected"]

    # Reading

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).for_page()

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        return SlotList

    @admin.display(description="what", ordering=Coalesce("doctor__name", "show__name"))
    def subject_name(self, slot: Slot) -> str:
        return str(slot.subject)

    @admin.display(description="when", ordering="starts_at")
    def when(self, slot: Slot) -> str:
        start, end = slot.local_start, slot.local_end
        until = f"{end:%H:%M}" if end.date() == start.date() else f"{end:%a %d %b %Y, %H:%M}"
        return f"{start:%a %d %b %Y, %H:%M}–{until} {end:%Z}"

    @admin.display(description="seating")
    def kind(self, slot: Slot) -> str:
        return slot.get_seating_display()

    @admin.display(description="booked")
    def fill(self, slot: Slot) -> str:
        return admin_plan.draw_fill(slot, slot.counts)

    @admin.display(description="state")
    def state(self, slot: Slot) -> str:
        state = state_of(slot, slot.counts["available"])
        return format_html(
            '<span class="slot-state" data-state="{}">{}</span>', state, STATES[state]
        )

    def why_kept(self, objects: Iterable[Slot]) -> list[str]:
        ids = [slot.pk for slot in objects]
        booked = Slot.objects.filter(pk__in=ids, bookings__isnull=False).for_page()
        return [
            f"{slot} has {_say(slot.n, 'booking')} on record, refused and cancelled ones included. "
            "It can be cancelled instead."
            for slot in booked.annotate(n=Count("bookings")).order_by("starts_at", "pk")
        ]

    # Who may what

    def has_change_permission(self, request: HttpRequest, obj: Slot | None = None) -> bool:
        """What was called off stays as it was."""
        is_open = obj is None or obj.cancelled_at is None
        return is_open and super().has_change_permission(request, obj)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("slots.cancel_slot")

    # Adding, changing, deleting: Django's views

    def get_fieldsets(self, request: HttpRequest, obj: Slot | None = None) -> list[tuple]:
        if obj is None:
            return [
                (None, {"fields": ["doctor", "show"]}),
                (
                    "Times",
                    {
                        "fields": ["starts_at", "ends_at", "opens_at", "closes_at"],
                        "description": "On the clock of the place: the time zone of the doctor or "
                        "show that you choose.",
                    },
                ),
                (
                    "Seats",
                    {
                        "fields": [
                            *("seating", "places", "rows", "seats_per_row"),
                            *("section", "aisles_after", "accessible"),
                        ]
                    },
                ),
                (
                    "Repeat",
                    {"fields": ["until", "days", "skip_weekends"], "classes": ["collapse"]},
                ),
            ]
        if not self.has_change_permission(request, obj):
            return [(None, {"fields": ["subject_link", "when", "kind", "booking_times"]})]
        times = {
            "fields": ["starts_at", "ends_at", "opens_at", "closes_at"],
            "description": f"On the clock of {obj.subject.time_zone}.",
        }
        return [(None, {"fields": ["subject_link", "kind"]}), ("Times", times)]

    def get_readonly_fields(self, request: HttpRequest, obj: Slot | None = None) -> tuple:
        return () if obj is None else ("subject_link", "when", "kind", "booking_times")

    @admin.display(description="what")
    def subject_link(self, slot: Slot) -> str:
        name = slot.subject._meta.model_name
        url = reverse(f"admin:slots_{name}_change", args=[slot.subject.pk])
        return format_html('<a href="{}">{}</a>', url, slot.subject)

    @admin.display(description="booking")
    def booking_times(self, slot: Slot) -> str:
        def say(moment: datetime | None, otherwise: str) -> str:
            if moment is None:
                return otherwise
            return f"{moment.astimezone(slot.zone):%a %d %b %Y, %H:%M %Z}"

        opens = say(slot.opens_at, "at once")
        return f"opens {opens}, closes {say(slot.closes_at, 'when it starts')}"

    def get_form(
        self, request: HttpRequest, obj: Slot | None = None, change: bool = False, **options: Any
    ) -> type[ModelForm]:
        own = {"form": SlotChangeForm if change else SlotAddForm}
        form = super().get_form(request, obj, change=change, **own | options)
        for name in {"doctor", "show"} & set(form.base_fields):
            widget = form.base_fields[name].widget
            widget.can_change_related = widget.can_delete_related = False
            widget.can_view_related = False
        return form

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """`?doctor=7` or `?show=7`, from the page of one."""
        given = {name: request.GET.get(name, "") for name in ("doctor", "show")}
        initial = {name: pk for name, pk in given.items() if pk.isdecimal() and len(pk) < 19}
        seating = Slot.Seating.NUMBERED if "show" in initial else Slot.Seating.GENERAL
        return initial | {"seating": seating} | ({"places": 1} if "doctor" in initial else {})

    def changeform_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        """Saves; if the database refuses because somebody was quicker, all is undone.

        Asked once more, the form sees what the other one did, and says so.
        """
        try:
            return super().changeform_view(request, *args, **options)
        except InventoryError as error:
            refusal = error
        try:
            return super().changeform_view(request, *args, **options)
        except InventoryError as error:
            refusal = error
        except PermissionDenied:
            pass  # it was called off, so there is no form any more: say that
        self.message_user(request, str(refusal), messages.ERROR)
        return redirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: Slot, form: Any, change: bool) -> None:
        if change:
            times = ("starts_at", "ends_at", "opens_at", "closes_at")
            inventory.change_slot(obj, **{name: getattr(obj, name) for name in times})
            return
        slots = form.save_slots()
        for slot in slots[1:]:
            self.log_addition(request, slot, [{"added": {}}])
        if len(slots) > 1:
            self.message_user(request, f"{len(slots)} slots were added, the last one: {slots[-1]}.")

    def delete_model(self, request: HttpRequest, obj: Slot) -> None:
        inventory.delete_slot(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        inventory.delete_slots(list(queryset))

    def render_change_form(
        self, request: HttpRequest, context: dict, *args: Any, **options: Any
    ) -> HttpResponse:
        if slot := context["original"]:
            context |= self._slot_context(request, slot)
        return super().render_change_form(request, context, *args, **options)

    def _slot_context(self, request: HttpRequest, slot: Slot, **plan: Any) -> dict[str, Any]:
        """What the pages of a slot show besides the form: its seats, and what can be done."""
        is_live = slot.cancelled_at is None
        is_over = slot.ends_at <= slot.now
        return {
            "seats": admin_plan.load(slot, admin_plan.may_see_names(request), **plan),
            "can_change_seats": self.has_change_permission(request, slot),
            "can_cancel": is_live and not is_over and self.has_cancel_permission(request),
        }

    # Seats and cancelling: views of our own, with no transaction around them

    def get_urls(self) -> list:
        view = self.admin_site.admin_view
        return [
            path("<path:object_id>/seats/", view(self.seats_view), name="slots_slot_seats"),
            path("<path:object_id>/cancel/", view(self.cancel_view), name="slots_slot_cancel"),
            *super().get_urls(),
        ]

    def _load(self, request: HttpRequest, object_id: str) -> Slot | None:
        return self.get_object(request, unquote(object_id))

    def seats_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Adds, removes, blocks and unblocks seats; GET shows the plan to choose from."""
        slot = self._load(request, object_id)
        if not self.has_change_permission(request, slot):
            raise PermissionDenied
        if slot is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        is_adding = request.POST.get("action") == "add"
        add_form = AddRowsForm if slot.is_numbered else AddPlacesForm
        data = request.POST if request.method == "POST" else None
        adding = add_form(data if is_adding else None, slot=slot, prefix="add")
        changing = ChangeSeatsForm(None if is_adding else data, slot=slot)
        form = adding if is_adding else changing
        if data is not None and form.is_valid():
            try:
                return self._change_seats(request, slot, form)
            except InventoryError as error:
                form.add_error(None, str(error))
        plan = {"chosen": changing.ticked(), "to_choose": True}
        seen = inventory.seats_seen(slot)  # before the plan: at worst it is older
        context = self._slot_context(request, slot, **plan) | {
            "title": "Change seats",
            "seen": seen,
            "adding": adding,
            "changing": changing,
        }
        return self._render(request, "seats", slot, context)

    def _change_seats(self, request: HttpRequest, slot: Slot, form: Any) -> HttpResponse:
        release_lapsed()
        with transaction.atomic():
            if form.is_relative:
                inventory.require_seen(slot, request.POST.get("seen", ""))
            done = form.apply()
            self.log_change(request, slot, done)
        self.message_user(request, done, messages.SUCCESS)
        return redirect("admin:slots_slot_seats", slot.pk)

    def cancel_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks for confirmation, and a reason; POST calls the slot off."""
        if not self.has_cancel_permission(request):
            raise PermissionDenied
        slot = self._load(request, object_id)
        if slot is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        return self._cancel(request, [slot], redirect("admin:slots_slot_change", slot.pk))

    @admin.action(permissions=["cancel"], description="Cancel selected slots and their bookings")
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        return self._cancel(request, list(queryset.order_by("starts_at", "pk")), None)

    def _cancel(
        self, request: HttpRequest, slots: list[Slot], done: HttpResponse | None
    ) -> HttpResponse | None:
        """The page that asks, and, once it was confirmed, the cancelling; then returns `done`."""
        form = CancelForm(request.POST if "confirm" in request.POST else None)
        live = [slot for slot in slots if slot.cancelled_at is None and slot.ends_at > slot.now]
        if not live:
            self.message_user(
                request,
                "Nothing to cancel: what was chosen is over or cancelled already.",
                messages.WARNING,
            )
            return done or redirect("admin:slots_slot_changelist")
        if form.is_bound and form.is_valid():
            for slot in live:
                self._cancel_one(request, slot, form.cleaned_data["reason"])
            return done
        admin_plan.count_bookings(live)
        context = {
            "title": "Cancel this slot?" if len(live) == 1 else f"Cancel {len(live)} slots?",
            "form": form,
            "slots": live,
            "skipped": len(slots) - len(live),
            "bookings": sum(slot.confirmed + slot.held for slot in live),
            "unreachable": sum(slot.unreachable for slot in live),
            "is_action": done is None,
        }
        return self._render(request, "cancel", slots[0], context)

    def _cancel_one(self, request: HttpRequest, slot: Slot, reason: str) -> None:
        actor = Holder(user=request.user)
        try:
            cancelled = lifecycle.cancel_slot(slot, actor=actor, reason=reason)
        except SlotBusy:
            slot.refresh_from_db(fields=["cancelled_at"])
            if slot.cancelled_at is None:
                text = f"{slot}: very many people are booking. Nothing was changed; try again."
            else:
                text = (
                    f"{slot} can no longer be booked. Not all bookings could be cancelled yet; "
                    "housekeeping cancels the others within minutes."
                )
            self.message_user(request, text, messages.WARNING)
            return
        self.log_change(request, slot, f"Cancelled, with {_say(len(cancelled), 'booking')}.")
        text = say_cancelled(slot, cancelled, admin_plan.may_see_names(request))
        self.message_user(request, text, messages.SUCCESS)

    def _render(
        self, request: HttpRequest, name: str, slot: Slot, context: dict[str, Any]
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        context = self.admin_site.each_context(request) | {
            "opts": self.opts,
            "original": slot,
            "media": self.media,
            "has_view_permission": self.has_view_permission(request, slot),
            **context,
        }
        return TemplateResponse(request, f"admin/slots/slot/{name}.html", context)


def say_cancelled(slot: Slot, cancelled: list[Booking], may_see_names: bool) -> str:
    """What became of the bookings of a slot that was called off, and who is still to be told."""
    confirmed = [booking for booking in cancelled if booking.confirmed_at]
    text = f"{slot} was cancelled, and with it {_say(len(confirmed), 'booking')}"
    if held := len(cancelled) - len(confirmed):
        text += f" and {_say(held, 'hold')}"
    text += "."
    if informed := len({booking.email.casefold() for booking in cancelled if booking.email}):
        text += f" {informed:,} {'person is' if informed == 1 else 'people are'} informed by mail."
    if silent := [booking for booking in confirmed if not booking.email]:
        text += f" {_say(len(silent), 'booking')} left no address: call them"
        if len(silent) <= MOST_NAMED:
            named = [
                f"{each.reference} {each.name} {each.phone}" if may_see_names else each.reference
                for each in silent
            ]
            text += f" ({'; '.join(' '.join(name.split()) for name in named)})"
        text += "."
    return text


def release_lapsed() -> None:
    """Releases lapsed holds, as housekeeping does: what is free to patients is free to staff."""
    with suppress(SweeperRunning):
        for _ in range(BATCHES):
            if not lifecycle.expire_due()[0]:
                return
