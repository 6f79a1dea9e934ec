"""What can be booked, for everybody to see. Nothing here writes."""

import re
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.messages import get_messages
from django.core.paginator import Page, Paginator
from django.db import close_old_connections
from django.db.models import QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    StreamingHttpResponse,
)
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.cache import (
    add_never_cache_headers,
    get_conditional_response,
    set_response_etag,
)
from django.utils.http import quote_etag
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_safe

from booking_site.client_address import client_address
from booking_site.coalesce import read_together
from booking_site.fields import BIGGEST_ID
from booking_site.prepared import prepared, select, send
from bookings import browser
from bookings.lifecycle import Holder
from bookings.models import Booking
from slots import live, pictures, seat_map
from slots.forms import FIRST_DAY, LAST_DAY, DateFilters, DoctorFilters, ShowFilters, WeekForm
from slots.models import FEW_LEFT, Doctor, Show, Slot, SlotQuerySet, day_bounds

SHOWS_AT_HOME = 12
DOCTORS_AT_HOME = 6
NEXT_TIMES = 4  # of a doctor, in a list
SUBJECTS_A_PAGE = 24
DATES_A_PAGE = 40
MOST_WATCHED = 100  # by one list


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    def read() -> dict[str, Any]:
        found = send(
            _soonest(Show, SHOWS_AT_HOME + 1),
            _soonest(Doctor, DOCTORS_AT_HOME + 1),
        )
        shows, doctors = ([one for one in some if one.next_at] for some in found)
        for some, most in ((shows, 1), (doctors, NEXT_TIMES)):
            if some:
                pks = tuple(one.pk for one in some)
                [slots] = send(_next_slots(type(some[0]), most, pks=pks))
                _attach(some, slots)
        return {
            "shows": shows[:SHOWS_AT_HOME],
            "doctors": doctors[:DOCTORS_AT_HOME],
            "has_more_shows": len(shows) > SHOWS_AT_HOME,
            "has_more_doctors": len(doctors) > DOCTORS_AT_HOME,
            "few": FEW_LEFT,
            "stream": _stream_of(_next_of(shows[:SHOWS_AT_HOME]), doctors[:DOCTORS_AT_HOME]),
        }

    return render_list(request, "slots/home.html", "slots/_home.html", read)


def _coming(model: type[Doctor] | type[Show]) -> SlotQuerySet:
    """Of shows every date is of interest, of doctors the free times."""
    return Slot.objects.upcoming() if model is Show else Slot.objects.bookable()


@prepared
def _soonest(model: type[Doctor] | type[Show], most: int) -> Any:
    return select(model.objects.with_next(_coming(model))[:most])


@prepared
def _next_slots(model: type[Doctor] | type[Show], most: int, *, pks: tuple[int, ...]) -> Any:
    return select(model.objects.filter(pk__in=pks).next_slots(_coming(model), most))


@require_safe
def shows(request: HttpRequest) -> HttpResponse:
    """Shows by their next date; with days asked for, those that have a date then."""

    def read() -> dict[str, Any]:
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
        context["stream"] = _stream_of(_next_of(page.object_list))
        return context

    return render_list(request, "slots/shows.html", "slots/_shows.html", read)


@require_safe
def doctors(request: HttpRequest) -> HttpResponse:
    """Doctors by their next free time, or by name; with a day asked for, those free then."""

    def read() -> dict[str, Any]:
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
        context = {"filters": filters, "page": page, "stream": _stream_of(doctors=page.object_list)}
        return context

    return render_list(request, "slots/doctors.html", "slots/_doctors.html", read)


@require_safe
def show(request: HttpRequest, show_id: int) -> HttpResponse:
    def read() -> dict[str, Any]:
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
        context["stream"] = _stream_of(page.object_list)
        return context

    return render_list(request, "slots/show.html", "slots/_dates.html", read)


@require_safe
def doctor(request: HttpRequest, doctor_id: int) -> HttpResponse:
    """A week of free times, and where there are more: three queries."""

    def read() -> dict[str, Any]:
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
        return {
            "doctor": doctor,
            "form": form,
            "is_past": asked < today,
            "today": today,
            "first": first,
            "last": last,
            "days": [
                (day, [slot for slot in free if slot.local_start.date() == day]) for day in days
            ],
            "free": free,
            "earlier_from": max(first - timedelta(days=7), today) if first > today else None,
            "later": later,
            "later_from": last + timedelta(days=1),
            "stream": _stream_of(doctors=[doctor]),
        }

    return render_list(request, "slots/doctor.html", "slots/_times.html", read)


@require_safe
@never_cache
def slot(request: HttpRequest, slot_id: int) -> HttpResponse:
    response = render_slot(request, slot_id)
    browser.introduce(request, response)
    return response


@require_safe
@never_cache
def seat_grid(request: HttpRequest, slot_id: int) -> HttpResponse:
    """The fragment by itself, for those who watch; 304 if they have seen all of it."""
    if not request.htmx:
        return redirect("slot", slot_id)
    context = slot_context(request, slot_id)
    return render_grid(request, context)


def render_grid(request: HttpRequest, context: dict) -> HttpResponse:
    """`_seat_grid.html`, or 304 for those who have seen all of it: not drawn for nothing."""
    etag = quote_etag(context["fingerprint"])
    response = get_conditional_response(request, etag=etag)
    response = response or render(request, "slots/_seat_grid.html", context)
    response["ETag"] = etag
    return response


def render_list(
    request: HttpRequest, page: str, part: str, read: Callable[[], dict[str, Any]]
) -> HttpResponse:
    """The page; to one that asks for its news, only the part that changes, or 304 if it has not.

    `read`, and what nobody in particular sees of it, is done once for all who ask together.
    """
    is_news = request.htmx.trigger == "results"
    template = part if is_news else page
    asked = (request.method, request.get_full_path())
    if is_news or _is_nobody(request):

        def draw() -> SafeString:
            return render_to_string(template, read(), request)

        response = HttpResponse(read_together((template, *asked), draw))
    else:
        response = render(request, page, read_together(("list", *asked), read))
    if not is_news:
        return response
    set_response_etag(response)
    add_never_cache_headers(response)  # nobody must take it for the page, which has its address
    return get_conditional_response(request, etag=response["ETag"], response=response)


def _is_nobody(request: HttpRequest) -> bool:
    """Whether the frame of a page is the same as for others who are not logged in."""
    return not (request.user.is_authenticated or get_messages(request))


def _stream_of(slots: Iterable[Slot] = (), doctors: Iterable[Doctor] = ()) -> str:
    """Where a list of these hears of their news; empty if there is nothing to be heard."""
    topics = [("slot", slot.pk) for slot in slots] + [("doctor", doctor.pk) for doctor in doctors]
    return f"{reverse('live')}?{urlencode(topics)}" if topics else ""


def _next_of(shows: Iterable[Show]) -> list[Slot]:
    return [slot for show in shows for slot in show.next_slots]


def load_slot(slot_id: int) -> Slot:
    """The slot, or 404; everybody may see every slot."""
    [found] = send(_find_slot(pk=slot_id)) if slot_id <= BIGGEST_ID else [[]]
    if not found:
        raise Http404("There is no such slot.")
    return found[0]


@prepared
def _find_slot(*, pk: int) -> Any:
    return select(Slot.objects.for_page().filter(pk=pk))


def render_slot(
    request: HttpRequest,
    slot_id: int,
    *,
    refusal: str = "",
    selected: Collection[int] = (),
    quantity: int = 1,
    status: int = 200,
) -> HttpResponse:
    """The slot's page (to htmx: its `_seat_grid.html`), with a sentence if something was refused.

    Queries: the slot and its seats, for all who ask at the same time; the viewer's own bookings.
    """
    context = slot_context(request, slot_id, selected)
    context |= {"refusal": refusal, "quantity": max(1, min(quantity, context["fits"]))}
    template = "slots/_seat_grid.html" if request.htmx else "slots/slot.html"
    return render(request, template, context, status=status)


def slot_context(request: HttpRequest, slot_id: int, selected: Collection[int] = ()) -> dict:
    """What `_seat_grid.html` shows. Its form goes to `action`; a fresh one comes from `news`; what
    became of one whose answer was lost tells `ask`.

    Raises Http404.
    """
    own = _own_bookings(browser.holder_of(request), slot_id)
    now = read_together(("slot", slot_id), lambda: _read_slot(slot_id))
    context = now.context | {
        "own": own,
        "key": uuid.uuid4().hex,
        "action": reverse("hold", args=[slot_id]),
        "ask": f"{reverse('hold_outcome')}?slot={slot_id}",
        "news": reverse("seat_grid", args=[slot_id]),
        "fingerprint": now.fingerprint + _mark(own),
    }
    if public := context["plan"]:
        plan = public.seen_by({booking.pk for booking in own}, selected)
        context |= {"plan": plan, "public": now if plan is public else None}
    return context


def _own_bookings(holder: Holder, slot_id: int) -> list[Booking]:
    """One query; none for who comes for the first time."""
    if not (holder.user or holder.session_key):
        return []
    user = holder.user.pk if holder.user else None
    key = holder.session_key or None
    [found] = send(_find_own(user=user, session_key=key, slot=slot_id))
    return found


@prepared
def _find_own(*, user: int | None, session_key: str | None, slot: int) -> Any:
    mine = Booking.objects.of_holder(user=user, session_key=session_key or "")
    return select(mine.for_slot(slot))


@dataclass(frozen=True)
class SlotNow:
    """A slot at one moment, as everybody sees it. Many share it, so nobody changes it."""

    context: dict[str, Any]
    fingerprint: str

    @cached_property
    def hall(self) -> SafeString:
        """Its seats, to those to whom they look as to everybody."""
        return render_to_string("slots/_hall.html", self.context)


def _read_slot(slot_id: int) -> SlotNow:
    """Two queries. Raises Http404."""
    slot = load_slot(slot_id)
    phase = slot.phase(slot.now)
    most, poll_seconds, plan = settings.MAX_SEATS_PER_BOOKING, 5, None
    if slot.is_numbered:
        seats = plan = seat_map.load(slot, can_choose=phase == "open")
        seen = pictures.numbered((seat.pk for seat in plan.seats), plan.states)
        # A big hall is a big fragment: it is asked for less often.
        poll_seconds += plan.capacity // 500
    else:
        seats = Slot.objects.with_availability().get(pk=slot_id)
        seen = (seats.available, seats.capacity)
        most = min(most, seats.capacity)
    context = {
        "slot": slot,
        "phase": phase,
        "plan": plan,
        "available": seats.available,
        "capacity": seats.capacity,
        "most": most,
        "fits": max(1, min(most, seats.available)),
        "poll_seconds": poll_seconds,
    }
    return SlotNow(context, pictures.fingerprint(slot, phase, seen))


def _mark(own: list[Booking]) -> str:
    """What the viewer's own bookings add to the fingerprint of a slot."""
    return "".join(f".{booking.pk.hex[:8]}{booking.state}" for booking in own)


@require_GET
def slot_live(request: HttpRequest, slot_id: int) -> HttpResponseBase:
    """The stream of a slot's page: what changed of its seats. Two queries before it begins; those
    of somebody with bookings here one more.
    """
    slot = load_slot(slot_id)
    if slot.phase(slot.now) in ("cancelled", "past"):
        return HttpResponse(status=204)
    holder = browser.holder_of(request)
    viewer = live.Viewer(
        [("seats", slot.pk)],
        seen=request.headers.get("Last-Event-ID") or request.GET.get("seen", ""),
        user_id=holder.user.pk if holder.user else None,
        browser=holder.session_key,
        **_whence(request),
    )
    if not live.hub.join(viewer):
        return HttpResponse(status=204)
    try:
        # Only now: whatever changes from here on is sent.
        mine = Booking.objects.of_holder(user=holder.user, session_key=holder.session_key)
        own = list(mine.for_slot(slot)) if viewer.is_known else []
        viewer.mine = _mark(own)
        if own:
            viewer.own = set(slot.seats.filter(booking__in=own).values_list("pk", flat=True))
    except BaseException:
        live.hub.leave(viewer)
        raise
    return _stream(viewer)


@require_GET
def live_lists(request: HttpRequest) -> HttpResponseBase:
    """The stream of a list or a calendar: `?slot=1&slot=2&doctor=7`. No query."""
    topics = set()
    for name, kind in (("slot", "left"), ("doctor", "doctor")):
        for number in request.GET.getlist(name):
            if not re.fullmatch(r"[0-9]{1,18}", number):
                return _refuse(f"“{name}” must be a number, like {name}=12.")
            topics.add((kind, int(number)))
    if not topics:
        return _refuse("Say what to watch, like slot=12 or doctor=7.")
    if len(topics) > MOST_WATCHED:
        return _refuse(f"At most {MOST_WATCHED} slots and doctors can be watched at once.")
    viewer = live.Viewer(topics, **_whence(request))
    return _stream(viewer) if live.hub.join(viewer) else HttpResponse(status=204)


def _refuse(sentence: str) -> HttpResponse:
    return HttpResponseBadRequest(sentence, content_type="text/plain; charset=utf-8")


def _whence(request: HttpRequest) -> dict[str, Any]:
    return {"address": client_address(request), "client": request.META.get("gunicorn.socket")}


def _stream(viewer: live.Viewer) -> StreamingHttpResponse:
    """The events of somebody who has joined. No database connection is kept for it."""
    live.hub.greet(viewer)
    close_old_connections()
    response = StreamingHttpResponse(live.Stream(viewer), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


def paginate(request: HttpRequest, items: QuerySet, size: int) -> Page:
    """The page asked for, or the nearest there is: it then says so (`is_another`)."""
    asked = request.GET.get("page", "")
    page = Paginator(items, size).get_page(asked or 1)
    page.is_another = asked not in ("", str(page.number))
    page.object_list = list(page.object_list)
    return page


def _attach_slots(subjects: list[Doctor] | list[Show], slots: SlotQuerySet, most: int) -> None:
    """Gives each of the doctors, or shows, its `next_slots`: one query."""
    if subjects:
        some = type(subjects[0]).objects.filter(pk__in=[subject.pk for subject in subjects])
        _attach(subjects, some.next_slots(slots, most))


def _attach(subjects: list[Doctor] | list[Show], slots: Iterable[Slot]) -> None:
    by_subject: dict[int, list[Slot]] = {subject.pk: [] for subject in subjects}
    for slot in slots:
        by_subject[slot.subject.pk].append(slot)
    for subject in subjects:
        subject.next_slots = by_subject[subject.pk]
