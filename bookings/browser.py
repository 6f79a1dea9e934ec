"""Who books: a signed-in user, or a guest known by a key in a signed cookie of the browser.

The cookie is not a session: it costs no write, and nothing is kept on the server for visitors.
"""

import secrets

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from bookings.lifecycle import Holder

COOKIE = "holdfast_browser"
COOKIE_SECONDS = 400 * 24 * 3600  # the longest that browsers keep one


def holder_of(request: HttpRequest) -> Holder:
    """The holder as far as known; a cookie that was tampered with counts for nothing."""
    key = request.get_signed_cookie(COOKIE, default="", salt=COOKIE, max_age=COOKIE_SECONDS)
    user = request.user if request.user.is_authenticated else None
    return Holder(user=user, session_key=key)


def with_new_key(holder: Holder) -> Holder:
    """The same person, in a browser that gets its key now."""
    return Holder(user=holder.user, session_key=secrets.token_urlsafe(24))


def introduce(request: HttpRequest, response: HttpResponse) -> None:
    """Gives a guest's browser its key before it books: if the answer to that is lost, it finds what
    it booked all the same, with or without scripts.
    """
    holder = holder_of(request)
    if not holder.user and not holder.session_key:
        remember(response, with_new_key(holder).session_key)


def remember(response: HttpResponse, key: str) -> None:
    """Gives the browser the key under which its bookings are found again."""
    response.set_signed_cookie(
        COOKIE,
        key,
        salt=COOKIE,
        max_age=COOKIE_SECONDS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def forget(response: HttpResponse) -> None:
    """For whoever uses this browser next: what they book as a guest is not the last one's."""
    response.delete_cookie(COOKIE, samesite="Lax")
