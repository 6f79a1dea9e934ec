"""What can be booked, for everybody to see. Nothing here writes."""

import uuid
from collections.abc import Collection, Iterable
from itertools import groupby

from django.conf import settings
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from bookings import browser
from bookings.models import Booking
from slots import seat_map
from slots.models import FEW_LEFT, Doctor, Show, Slot

SHOWS_AT_HOME = 12
DOCTORS_AT_HOME = 6
NEXT_TIMES = 4  # of a doctor, in a list
SUBJECTS_A_PAGE = 24
DATES_A_PAGE = 40
TIMES_A_PAGE = 80


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    shows = list(_with_next_show().exclude(next_at=None)[: SHOWS_AT_HOME + 1])
    doctors = list(_with_free_times().exclude(next_at=None)[: DOCTORS_AT_HOME + 1])
    _attach_slots([*shows, *doctors])
    context = {
        "shows": shows[:SHOWS_AT_HOME],
        "doctors": doctors[:DOCTORS_AT_HOME],
        "has_more_shows": len(shows) > SHOWS_AT_HOME,
        "has_more_doctors": len(doctors) > DOCTORS_AT_HOME,
        "few": FEW_LEFT,
    }
    return render(request, "slots/home.html", context)


@require_safe
def shows(request: HttpRequest) -> HttpResponse:
    page = Paginator(_with_next_show(), SUBJECTS_A_PAGE).get_page(request.GET.get("page"))
    page.object_list = _attach_slots(page.object_list)
    return render(request, "slots/shows.html", {"page": page, "few": FEW_LEFT})


@require_safe
def doctors(request: HttpRequest) -> HttpResponse:
    page = Paginator(_with_free_times(), SUBJECTS_A_PAGE).get_page(request.GET.get("page"))
    page.object_list = _attach_slots(page.object_list)
    return render(request, "slots/doctors.html", {"page": page})


@require_safe
def show(request: HttpRequest, show_id: int) -> HttpResponse:
    show = get_object_or_404(Show, pk=show_id)
    dates = Slot.objects.filter(show=show).for_list()
    page = Paginator(dates, DATES_A_PAGE).get_page(request.GET.get("page"))
    return render(request, "slots/show.html", {"show": show, "page": page, "few": FEW_LEFT})


@require_safe
def doctor(request: HttpRequest, doctor_id: int) -> HttpResponse:
    doctor = get_object_or_404(Doctor, pk=doctor_id)
    times = Slot.objects.filter(doctor=doctor).bookable().select_related("doctor")
    page = Paginator(times, TIMES_A_PAGE).get_page(request.GET.get("page"))
    by_day = groupby(page.object_list, key=lambda slot: slot.local_start.date())
    days = [(day, list(slots)) for day, slots in by_day]
    return render(request, "slots/doctor.html", {"doctor": doctor, "page": page, "days": days})


@require_safe
@never_cache
def slot(request: HttpRequest, slot_id: int) -> HttpResponse:
    return render_slot(request, load_slot(slot_id))


@require_safe
@never_cache
def seat_grid(request: HttpRequest, slot_id: int) -> HttpResponse:
    """The fragment by itself, for those who watch; 204 if they have seen all of it."""
    if not request.htmx:
        return redirect("slot", slot_id)
    context = _slot_context(request, load_slot(slot_id))
    if request.GET.get("seen") == context["fingerprint"]:
        return HttpResponse(status=204)
    return render(request, "slots/_seat_grid.html", context)


def load_slot(slot_id: int) -> Slot:
    """The slot, or 404; everybody may see every slot."""
    return get_object_or_404(Slot.objects.for_page(), pk=slot_id)


def render_slot(
    request: HttpRequest,
    slot: Slot,
    *,
    refusal: str = "",
    selected: Collection[int] = (),
    quantity: int = 1,
    status: int = 200,
) -> HttpResponse:
    """The slot's page (to htmx: its `_seat_grid.html`), with a sentence if something was refused.

    Up to two queries: the viewer's own bookings, and the seats.
    """
    context = _slot_context(request, slot, selected)
    context |= {"refusal": refusal, "quantity": max(1, min(quantity, context["most"]))}
    template = "slots/_seat_grid.html" if request.htmx else "slots/slot.html"
    return render(request, template, context, status=status)


def _slot_context(request: HttpRequest, slot: Slot, selected: Collection[int] = ()) -> dict:
    holder = browser.holder_of(request)
    mine = Booking.objects.of_holder(user=holder.user, session_key=holder.session_key)
    own = list(mine.for_slot(slot))
    phase = _phase(slot)
    context = {
        "slot": slot,
        "own": own,
        "phase": phase,
        "most": settings.MAX_SEATS_PER_BOOKING,
        "key": uuid.uuid4().hex,
    }
    if slot.is_numbered:
        plan = seat_map.load(slot, own={booking.pk for booking in own}, selected=selected)
        seen = [plan.fingerprint]
        context |= {"plan": plan, "available": plan.available, "capacity": plan.capacity}
    else:
        counted = Slot.objects.with_availability().get(pk=slot.pk)
        seen = [counted.available, counted.capacity]
        context |= {"available": counted.available, "capacity": counted.capacity}
        context["most"] = min(settings.MAX_SEATS_PER_BOOKING, counted.available)
    # A big hall is a big fragment: it is asked for less often.
    context["poll_seconds"] = 5 + context["capacity"] // 500 if slot.is_numbered else 5
    seen += [phase, *(f"{booking.pk.hex[:8]}{booking.state}" for booking in own)]
    return context | {"fingerprint": ".".join(map(str, seen))}


def _phase(slot: Slot) -> str:
    """Where the slot stands between being announced and being over, by the database's clock."""
    if slot.cancelled_at:
        return "cancelled"
    if slot.is_bookable(slot.now):
        return "open"
    if slot.opens_at and slot.now < slot.opens_at:
        return "not_yet"
    if slot.now >= slot.ends_at:
        return "past"
    return "begun" if slot.now >= slot.starts_at else "closed"


def _with_next_show() -> Iterable[Show]:
    return Show.objects.with_next_slots(Slot.objects.upcoming(), 1)


def _with_free_times() -> Iterable[Doctor]:
    return Doctor.objects.with_next_slots(Slot.objects.bookable(), NEXT_TIMES)


def _attach_slots(subjects: Iterable[Doctor | Show]) -> list[Doctor | Show]:
    """Gives each doctor or show its `next_slots`: one query for all of them."""
    subjects = list(subjects)
    ids = [pk for subject in subjects for pk in subject.next_ids]
    slots = Slot.objects.for_list().in_bulk(ids) if ids else {}
    for subject in subjects:
        subject.next_slots = [slots[pk] for pk in subject.next_ids if pk in slots]
    return subjects
