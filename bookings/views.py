"""Holding, confirming, cancelling: each a form, each through `lifecycle`."""

import math
import re
import uuid
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from django_htmx.http import HttpResponseClientRedirect

from booking_site.problems import TooMany
from booking_site.views import require_post
from bookings import browser, lifecycle
from bookings.access import (
    count_hold,
    count_mail,
    is_staff_of_others,
    is_staff_who_may,
    load_booking,
)
from bookings.forms import DetailsForm, SeatForm
from bookings.lifecycle import BookingError, Holder, InvalidRequest, KeyReused, SlotBusy, WrongState
from bookings.models import Booking
from slots.models import FEW_LEFT, Slot
from slots.views import (
    DATES_A_PAGE,
    load_slot,
    paginate,
    render_grid,
    render_slot,
    slot_context,
)

BOOKINGS_A_PAGE = 20  # of a person's list


@require_post
@never_cache
def hold(request: HttpRequest, slot_id: int) -> HttpResponse:
    slot = load_slot(slot_id)
    form = SeatForm(request.POST, slot=slot)
    known = browser.holder_of(request)
    holder = known if known.session_key else browser.with_new_key(known)
    try:
        if not form.is_valid():
            raise InvalidRequest(form.sentence)
        count_hold(request)
        booking = _hold_once(slot, form.wish, holder, request.POST.get("key", ""))
    except SlotBusy:
        raise
    except (BookingError, TooMany) as refusal:
        return _refuse(request, slot, form, refusal)
    response = _see(request, booking)
    # A double click before any cookie: the booking has the key of the click that came first.
    browser.remember(response, known.session_key or booking.session_key)
    return response


def _hold_once(slot: Slot, wish: dict[str, Any], holder: Holder, key: str) -> Booking:
    """Holds; for the second click on one form returns what the first one got.

    A form that was used for other seats, or whose booking is over, is an old tab or the Back
    button, not a double click: it holds anew, and of that, too, a double click is one booking.
    """
    if not re.fullmatch(r"[!-~]{16,200}", key):
        key = uuid.uuid4().hex
    digest = lifecycle.digest_of_hold(slot.pk, **wish)
    for _ in range(lifecycle.MOST_KEYS):
        made = None
        try:
            made = lifecycle.hold(slot, **wish, holder=holder, idempotency_key=key)
            if made.is_new or made.state in (Booking.Status.PENDING, Booking.Status.CONFIRMED):
                return made
        except KeyReused:
            pass
        key = lifecycle.next_key(key, digest, made)
    return lifecycle.hold(slot, **wish, holder=holder, idempotency_key=uuid.uuid4().hex)


def _refuse(
    request: HttpRequest, slot: Slot, form: SeatForm, refusal: BookingError | TooMany
) -> HttpResponse:
    """The slot's page as it is now, with the sentence; what is still free stays chosen."""
    return render_slot(
        request,
        slot.pk,
        refusal=str(refusal),
        selected=form.cleaned_data.get("seat", ()),
        quantity=form.cleaned_data.get("quantity", 1),
        status=400 if isinstance(refusal, InvalidRequest) else 409,
    )


@require_safe
@never_cache
def booking(request: HttpRequest, booking_id: uuid.UUID) -> HttpResponse:
    return _render_booking(request, load_booking(request, booking_id))


@require_post
@never_cache
def confirm(request: HttpRequest, booking_id: uuid.UUID) -> HttpResponse:
    booking = load_booking(request, booking_id, to="confirm")
    form = DetailsForm(request.POST)
    details = form.cleaned_data if form.is_valid() else {}
    is_pending = booking.state == Booking.Status.PENDING
    if is_pending and details:
        try:
            count_mail(request, details["email"])
        except TooMany as refusal:
            form.refuse("email", str(refusal))
            details = {}
    if is_pending and not details:
        return _render_booking(request, booking, form=form, status=400)
    try:
        lifecycle.confirm(booking, **details, actor=browser.holder_of(request))
    except SlotBusy:
        raise
    except BookingError as refusal:
        return _refuse_change(request, booking_id, refusal, form=form)
    return _see(request, booking)


@require_post
@never_cache
def extend(request: HttpRequest, booking_id: uuid.UUID) -> HttpResponse:
    """More time. What was typed meanwhile comes along and stays."""
    booking = load_booking(request, booking_id, to="confirm")
    typed = DetailsForm(initial=request.POST.dict())
    try:
        booking = lifecycle.extend(booking)
    except SlotBusy:
        raise
    except BookingError as refusal:
        if request.htmx:
            return HttpResponseClientRedirect(booking.get_absolute_url())
        return _refuse_change(request, booking_id, refusal, form=typed)
    if request.htmx:
        return render(request, "bookings/_countdown.html", _booking_context(request, booking))
    return _render_booking(request, booking, form=typed)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def cancel(request: HttpRequest, booking_id: uuid.UUID) -> HttpResponse:
    """GET only shows: mail scanners follow links. The button on the page acts."""
    booking = load_booking(request, booking_id, to="cancel")
    if request.method != "POST":
        return render(request, "bookings/cancel.html", _booking_context(request, booking))
    try:
        actor = browser.holder_of(request)
        by_staff = is_staff_of_others(request, booking)
        lifecycle.cancel(booking, actor=actor, by_staff=by_staff)
    except SlotBusy:
        raise
    except BookingError as refusal:
        return _refuse_change(request, booking_id, refusal)
    return _see(request, booking)


@require_safe
@never_cache
def move(request: HttpRequest, booking_id: uuid.UUID) -> HttpResponse:
    """The other dates at which there is room for the booking: three queries."""
    booking = load_booking(request, booking_id, to="cancel")
    context = _booking_context(request, booking)
    if context.get("can_move"):
        room = min(booking.quantity, FEW_LEFT + 1)  # lists count no further
        others = Slot.objects.filter(doctor=booking.slot.doctor_id, show=booking.slot.show_id)
        others = others.exclude(pk=booking.slot_id).bookable().for_list().filter(left__gte=room)
        context |= {"page": paginate(request, others, DATES_A_PAGE), "few": FEW_LEFT}
    return render(request, "bookings/move.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def move_to(request: HttpRequest, booking_id: uuid.UUID, slot_id: int) -> HttpResponse:
    """GET shows that date, its seats to choose from; the button swaps, in one step."""
    booking = load_booking(request, booking_id, to="cancel")
    slot = load_slot(slot_id)
    if (slot.doctor, slot.show) != (booking.slot.doctor, booking.slot.show):
        raise Http404("There is no such date to move to.")
    if booking.slot_id == slot.pk:
        return _see(request, booking)  # the second click
    if request.method != "POST":
        return _render_move(request, booking, slot)
    form = SeatForm(request.POST, slot=slot)
    try:
        if booking.state != Booking.Status.CONFIRMED:
            raise WrongState("Only a confirmed booking can be moved to another date.")
        wish = _wish_to_move(form, booking, slot)
        if booking.email:
            count_mail(request, booking.email)
        lifecycle.reschedule(booking, slot=slot, **wish, actor=browser.holder_of(request))
    except SlotBusy:
        raise
    except (BookingError, TooMany) as refusal:
        return _refuse_move(request, booking_id, slot_id, form, refusal)
    return _see(request, booking)


def _refuse_move(
    request: HttpRequest,
    booking_id: uuid.UUID,
    slot_id: int,
    form: SeatForm,
    refusal: BookingError | TooMany,
) -> HttpResponse:
    """Both as they are now, and why nothing was changed; what is still free stays chosen."""
    booking, slot = load_booking(request, booking_id), load_slot(slot_id)
    status = 400 if isinstance(refusal, InvalidRequest) else 409
    if booking.slot_id == slot.pk:
        return _see(request, booking)  # the click before this one took the seats
    if _can_move(booking):
        chosen = form.cleaned_data.get("seat", ()) if form.is_valid() else ()
        return _render_move(request, booking, slot, str(refusal), chosen, status)
    if request.htmx:
        return HttpResponseClientRedirect(booking.get_absolute_url())
    return _render_booking(request, booking, refusal=str(refusal), status=status)


def _wish_to_move(form: SeatForm, booking: Booking, slot: Slot) -> dict[str, Any]:
    """As many seats as are booked. Raises InvalidRequest if others were chosen."""
    if not slot.is_numbered:
        return {"quantity": booking.quantity}
    if not form.is_valid():
        raise InvalidRequest(form.sentence)
    if len(form.wish["seat_ids"]) != booking.quantity:
        number = f"{booking.quantity} seat{'' if booking.quantity == 1 else 's'}"
        raise InvalidRequest(f"Choose {number}: as many as you have booked.")
    return form.wish


def _render_move(
    request: HttpRequest,
    booking: Booking,
    slot: Slot,
    refusal: str = "",
    selected: Collection[int] = (),
    status: int = 200,
) -> HttpResponse:
    """The page of the date to move to (to htmx: its `_seat_grid.html`, or 304 if it is no news)."""
    if not _can_move(booking):
        if request.htmx:
            return HttpResponseClientRedirect(booking.get_absolute_url())
        return render(request, "bookings/move.html", _booking_context(request, booking))
    context = slot_context(request, slot.pk, selected)
    here = reverse("move_to", args=[booking.pk, slot.pk])
    context |= {"moving": booking, "refusal": refusal, "action": here, "news": here}
    context["ask"] = f"{reverse('outcome', args=[booking.pk])}?to=move&slot={slot.pk}"
    context["most"] = booking.quantity
    if request.htmx and request.method == "GET":
        return render_grid(request, context)
    template = "slots/_seat_grid.html" if request.htmx else "bookings/move_to.html"
    return render(request, template, context, status=status)


def _can_move(booking: Booking) -> bool:
    """Whether the patient may still move it: confirmed, and not begun."""
    return booking.state == Booking.Status.CONFIRMED and booking.now < booking.slot.starts_at


@require_safe
@never_cache
def my_bookings(request: HttpRequest, group: str = "upcoming") -> HttpResponse:
    """One group of what this user, or this browser, has booked; what is held stands above it.

    Three queries besides who asks; none for a browser that has not booked anything.
    """
    holder = browser.holder_of(request)
    mine = Booking.objects.of_holder(user=holder.user, session_key=holder.session_key)
    counts = mine.count_groups()
    pages = Paginator(mine.for_list(group), BOOKINGS_A_PAGE)
    pages.count = counts[group]  # it would ask again
    held = list(mine.for_list("held")) if group == "upcoming" and counts["held"] else []
    for booking in held:
        booking.minutes_left = math.ceil(booking.seconds_left / 60)
    context = {
        "group": group,
        "counts": counts,
        "held": held,
        "page": pages.get_page(request.GET.get("page")),
        "is_empty": not any(counts.values()),
    }
    return render(request, "bookings/my_bookings.html", context)


def _see(request: HttpRequest, booking: Booking) -> HttpResponse:
    """303 to the booking's page: reloading it repeats nothing."""
    if request.htmx:
        return HttpResponseClientRedirect(booking.get_absolute_url())
    response = redirect(booking)
    response.status_code = 303
    return response


def _refuse_change(
    request: HttpRequest,
    booking_id: uuid.UUID,
    refusal: BookingError,
    form: DetailsForm | None = None,
) -> HttpResponse:
    """The booking as it is now, and why nothing was changed."""
    booking = load_booking(request, booking_id)
    return _render_booking(request, booking, form=form, refusal=str(refusal), status=409)


def _render_booking(
    request: HttpRequest,
    booking: Booking,
    *,
    form: DetailsForm | None = None,
    refusal: str = "",
    status: int = 200,
) -> HttpResponse:
    if form is None:
        form = DetailsForm(initial=_known_details(request, booking))
    context = _booking_context(request, booking) | {"form": form, "refusal": refusal}
    return render(request, "bookings/booking.html", context, status=status)


def _known_details(request: HttpRequest, booking: Booking) -> dict[str, str]:
    """What the form starts with: given before, or known of the user."""
    user = request.user
    return {
        "name": booking.name or getattr(user, "name", ""),
        "email": booking.email or getattr(user, "email", ""),
        "phone": booking.phone,
    }


def _booking_context(request: HttpRequest, booking: Booking) -> dict[str, Any]:
    """What the pages of a booking need besides: whether it can be extended, cancelled."""
    slot = booking.slot
    context: dict[str, Any] = {"booking": booking, "slot": slot}
    context["in_office"] = is_staff_who_may(request, "view")
    if booking.state == Booking.Status.PENDING:
        cap = booking.created_at + timedelta(seconds=settings.HOLD_MAX_SECONDS)
        seconds = max(0, int(booking.seconds_left))
        context["seconds_left"] = seconds
        context["whole"] = max(seconds, settings.HOLD_SECONDS)
        context["clock"] = f"{seconds // 60}:{seconds % 60:02}"
        context["refresh_after"] = seconds + 2
        context["can_extend"] = cap - booking.expires_at > timedelta(seconds=1)
    elif booking.state == Booking.Status.CONFIRMED:
        by_staff = is_staff_of_others(request, booking)
        context["can_cancel"] = booking.now < slot.starts_at or by_staff
        context["can_move"] = _can_move(booking)
        context["is_over"] = booking.now >= slot.ends_at
    return context
