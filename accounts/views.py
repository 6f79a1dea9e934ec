"""The profile, and where django-allauth's pages need a sentence more."""

from typing import Any

from allauth.account import views as allauth
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required, login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.forms import ProfileForm
from accounts.models import User
from bookings import browser

RETRY_AFTER = 60  # seconds; the shortest of the limits


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
@never_cache
def profile(request: HttpRequest) -> HttpResponse:
    # Not request.user itself: what is typed in goes into it, and the header would show that.
    user = User.objects.get(pk=request.user.pk)
    form = ProfileForm(request.POST if request.method == "POST" else None, instance=user)
    if form.is_bound and form.is_valid():
        User.objects.filter(pk=user.pk).update(name=form.cleaned_data["name"])
        messages.success(request, "Your name is saved.")
        return redirect("profile")
    status = 400 if form.is_bound else 200
    return render(request, "account/profile.html", {"form": form}, status=status)


@never_cache
def logout(request: HttpRequest) -> HttpResponse:
    """Also the way out for who is half-way through a sign-up or login."""
    was_user = request.user.is_authenticated
    response = allauth.logout(request)
    if request.method == "POST":
        if was_user:
            browser.forget(response)
        else:
            # All of a login that was begun: what allauth leaves of one differs with whether there
            # is such an account.
            request.session.flush()
    return response


@never_cache
def request_login_code(request: HttpRequest) -> HttpResponse:
    """The mail to who signs up with an address that has an account leads here: out of the sign-up,
    which waits for a code that never comes.
    """
    if request.method == "GET" and request.user.is_anonymous:
        request.session.flush()
    return allauth.request_login_code(request)


class ExplainsItself:
    """A page that takes a code: coming too late, one is led back, and told why."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = super().dispatch(request, *args, **kwargs)
        if getattr(self, "_process", None) is None and request.user.is_anonymous:
            messages.error(
                request, "There is no code to type in: it was used, or is too old. Begin again."
            )
        return response


class ConfirmEmail(ExplainsItself, allauth.ConfirmEmailVerificationCodeView):
    pass


class ConfirmLoginCode(ExplainsItself, allauth.ConfirmLoginCodeView):
    pass


class ConfirmPasswordReset(ExplainsItself, allauth.ConfirmPasswordResetCodeView):
    pass


confirm_email = never_cache(login_not_required(ConfirmEmail.as_view()))
confirm_login_code = ConfirmLoginCode.as_view()
confirm_password_reset = never_cache(ConfirmPasswordReset.as_view())


def too_many_requests(request: HttpRequest) -> HttpResponse:
    """429 in the site's look: one of allauth's limits was reached."""
    response = render(request, "429.html", status=429)
    response["Retry-After"] = str(RETRY_AFTER)
    response["Cache-Control"] = "no-store"
    return response
