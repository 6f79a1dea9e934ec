"""What can be booked, for everybody to see. Nothing here writes."""

import uuid
from collections.abc import Collection
from datetime import timedelta
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from bookings import browser
from bookings.models import Booking
from slots import seat_map
from slots.forms import FIRST_DAY, LAST_DAY, DateFilters, DoctorFilters, ShowFilters, WeekForm
from slots.models import FEW_LEFT, Doctor, Show, Slot, SlotQuerySet, day_bounds

SHOWS_AT_HOME = 12
DOCTORS_AT_HOME = 6
NEXT_TIMES = 4  # of a doctor, in a list
SUBJECTS_A_PAGE = 24
DATES_A_PAGE = 40


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    dates, times = Slot.objects.upcoming(), Slot.objects.bookable()
    shows = [s for s in Show.objects.with_next(dates)[: SHOWS_AT_HOME + 1] if s.next_at]
    doctors = [d for d in Doctor.objects.with_next(times)[: DOCTORS_AT_HOME + 1] if d.next_at]
    _attach_slots(shows, dates, 1)
    _attach_slots(doctors, times, NEXT_TIMES)
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
    """Shows by their next date; with days asked for, those that have a date then."""
    filters = ShowFilters(request.GET)
    chosen = filters.chosen
    found = Show.objects.search(chosen["q"], "name", "venue", "description")
    if chosen["venue"]:
        found = found.filter(venue=chosen["venue"])
    dates = Slot.objects.upcoming()
    if chosen["from"] or chosen["to"]:
        first, last = chosen["from"] or FIRST_DAY, chosen["to"] or LAST_DAY
        zones = Show.objects.values_of("time_zone")
        dates = dates.in_local_days(first, last, of="show", zones=zones)
        found = found.with_next(dates).exclude(next_at=None)
    else:
        found = found.with_next(dates)
    page = paginate(request, found, SUBJECTS_A_PAGE)
    _attach_slots(page.object_list, dates, 1)
    context = {"filters": filters, "page": page, "few": FEW_LEFT}
    return render(request, "slots/shows.html", context)


@require_safe
def doctors(request: HttpRequest) -> HttpResponse:
    """Doctors by their next free time, or by name; with a day asked for, those free then."""
    filters = DoctorFilters(request.GET)
    chosen = filters.chosen
    found = Doctor.objects.search(chosen["q"], "name", "specialization")
    if chosen["specialization"]:
        found = found.filter(specialization=chosen["specialization"])
    times = Slot.objects.bookable()
    if day := chosen["on"]:
        zones = Doctor.objects.values_of("time_zone")
        times = times.in_local_days(day, day, of="doctor", zones=zones)
        found = found.with_next(times).exclude(next_at=None)
    else:
        found = found.with_next(times)
    if chosen["sort"] == "name":
        found = found.order_by("name", "id")
    page = paginate(request, found, SUBJECTS_A_PAGE)
    _attach_slots(page.object_list, times, NEXT_TIMES)
    return render(request, "slots/doctors.html", {"filters": filters, "page": page})


@require_safe
def show(request: HttpRequest, show_id: int) -> HttpResponse:
    show = get_object_or_404(Show, pk=show_id)
    filters = DateFilters(request.GET)
    chosen = filters.chosen
    dates = Slot.objects.filter(show=show).for_list()
    first, last = chosen["from"] or FIRST_DAY, chosen["to"] or LAST_DAY
    dates = dates.in_days(first, last, ZoneInfo(show.time_zone))
    if chosen["available"]:
        dates = dates.bookable()
    page = paginate(request, dates, DATES_A_PAGE)
    context = {"show": show, "filters": filters, "page": page, "few": FEW_LEFT}
    return render(request, "slots/show.html", context)


@require_safe
def doctor(request: HttpRequest, doctor_id: int) -> HttpResponse:
    """A week of free times, and where there are more: three queries."""
    doctor = get_object_or_404(Doctor.objects.with_now(), pk=doctor_id)
    zone = ZoneInfo(doctor.time_zone)
    today = doctor.now.astimezone(zone).date()
    form = WeekForm(request.GET)
    asked = form.chosen["from"] or today
    first = max(asked, today)
    last = min(first + timedelta(days=6), LAST_DAY)
    times = Slot.objects.filter(doctor=doctor).bookable().select_related("doctor")
    free = list(times.in_days(first, last, zone))
    later = times.filter(starts_at__gte=day_bounds(first, last, zone)[1]).first()
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    context = {
        "doctor": doctor,
        "form": form,
        "is_past": asked < today,
        "today": today,
        "first": first,
        "last": last,
        "days": [(day, [slot for slot in free if slot.local_start.date() == day]) for day in days],
        "free": free,
        "earlier_from": max(first - timedelta(days=7), today) if first > today else None,
        "later": later,
        "later_from": last + timedelta(days=1),
    }
    return render(request, "slots/doctor.html", context)


@require_safe
@never_cache
def slot(request: HttpRequest, slot_id: int) -> HttpResponse:
    response = render_slot(request, load_slot(slot_id))
    browser.introduce(request, response)
    return response


@require_safe
@never_cache
def seat_grid(request: HttpRequest, slot_id: int) -> HttpResponse:
    """The fragment by itself, for those who watch; 204 if they have seen all of it."""
    if not request.htmx:
        return redirect("slot", slot_id)
    context = slot_context(request, load_slot(slot_id))
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
    context = slot_context(request, slot, selected)
    context |= {"refusal": refusal, "quantity": max(1, min(quantity, context["most"]))}
    template = "slots/_seat_grid.html" if request.htmx else "slots/slot.html"
    return render(request, template, context, status=status)


def slot_context(request: HttpRequest, slot: Slot, selected: Collection[int] = ()) -> dict:
    """What `_seat_grid.html` shows. Its form goes to `action`; a fresh one comes from `news`; what
    became of one whose answer was lost tells `ask`.
    """
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
        "action": reverse("hold", args=[slot.pk]),
        "ask": reverse("hold_outcome"),
        "news": reverse("seat_grid", args=[slot.pk]),
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


def paginate(request: HttpRequest, items: QuerySet, size: int) -> Page:
    """The page asked for, or the nearest there is: it then says so (`is_another`)."""
    asked = request.GET.get("page", "")
    page = Paginator(items, size).get_page(asked or 1)
    page.is_another = asked not in ("", str(page.number))
    page.object_list = list(page.object_list)
    return page


def _attach_slots(subjects: list[Doctor] | list[Show], slots: SlotQuerySet, most: int) -> None:
    """Gives each of the doctors, or shows, its `next_slots`: one query."""
    by_subject: dict[int, list[Slot]] = {subject.pk: [] for subject in subjects}
    if subjects:
        some = type(subjects[0]).objects.filter(pk__in=by_subject)
        for slot in some.next_slots(slots, most):
            by_subject[slot.subject.pk].append(slot)
    for subject in subjects:
        subject.next_slots = by_subject[subject.pk]
