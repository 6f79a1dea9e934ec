"""Where this site differs from django-allauth's defaults; its settings say the rest."""

import logging
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress
from allauth.account.signals import email_confirmed
from django.conf import settings
from django.contrib import messages
from django.db import IntegrityError, OperationalError, transaction
from django.dispatch import receiver
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from accounts.limits import count_when_free, settled
from accounts.models import User
from booking_site.client_address import client_address
from bookings import browser, lifecycle
from bookings.errors import BookingError

logger = logging.getLogger("holdfast.accounts")

LOCKED = "That was too many tries. Wait a few minutes, then try again."


class AccountAdapter(DefaultAccountAdapter):
    error_messages = DefaultAccountAdapter.error_messages | {
        "email_password_mismatch": (
            "This e-mail address and password do not belong together. Try again, log in with a "
            "code, or set a new password."
        ),
        "incorrect_password": "This is not your password. Try again.",
        "enter_current_password": "This is not your current password. Try again.",
        "incorrect_code": (
            "This is not the code we sent last. Look at the latest e-mail and try again."
        ),
        # Said when a code has been tried too often; for passwords, see `validation_error`.
        "too_many_login_attempts": (
            "That code was wrong too often, so it no longer counts. Ask for a new one."
        ),
        "rate_limited": "That was too often. Wait a minute, then ask again.",
        "duplicate_email": "This is your address already.",
        "email_taken": "There is an account with this e-mail address already. Choose another one.",
    }

    def validation_error(self, code: str, *args: Any) -> Exception:
        error = super().validation_error(code, *args)
        if code == "too_many_login_attempts":
            error.message = LOCKED
        return error

    def get_client_ip(self, request: HttpRequest) -> str:
        return client_address(request)

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        """One count for an account: in allauth's there is the host, to which any port can be added,
        and with each one could guess anew.
        """
        return credentials.get("email", "").lower()

    def is_safe_url(self, url: str) -> bool:
        """Paths of this site: nobody is sent elsewhere after logging in, other names included."""
        return url_has_allowed_host_and_scheme(url, allowed_hosts=None)

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        super().send_mail(template_prefix, email, context | {"site_url": settings.SITE_URL})

    def render_mail(self, *args: Any, **options: Any) -> Any:
        mail = super().render_mail(*args, **options)
        mail.extra_headers["Auto-Submitted"] = "auto-generated"
        return mail

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """As allauth's, but that right passwords of many at once do not refuse each other."""
        key = self._get_login_attempts_cache_key(request, **credentials)
        self._login_failed_rl_usage = count_when_free(request, "login_failed", key=key)
        if self._login_failed_rl_usage is None:
            raise self.validation_error("too_many_login_attempts")

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        settled(self._login_failed_rl_usage)

    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        """An inactive user with the right password learns no more than anybody with a wrong one."""
        user = super().authenticate(request, **credentials)
        return user if user and user.is_active else None

    def confirm_email(self, request: HttpRequest, email_address: EmailAddress) -> bool:
        """All of the change or nothing; of two who confirm one address at once, one does."""
        try:
            with transaction.atomic():
                return super().confirm_email(request, email_address)
        except IntegrityError:
            messages.error(request, self.error_messages["email_taken"])
            return False

    def login(self, request: HttpRequest, user: User) -> None:
        """Every way to log in comes by here; what was booked as a guest comes along."""
        super().login(request, user)
        try:
            count = lifecycle.adopt(user, browser.holder_of(request).session_key)
        except (BookingError, OperationalError):
            # They are logged in all the same; the next login tries again.
            logger.warning("what user %s booked as a guest could not be taken over", user.pk)
            return
        if count:
            messages.success(
                request,
                f"{count} booking{pluralize(count)} made in this browser "
                f"{pluralize(count, 'is,are')} in your account now.",
            )

    def get_email_verification_redirect_url(self, email_address: EmailAddress) -> str:
        if self.request.user.is_authenticated:
            return reverse("profile")
        return reverse(settings.LOGIN_URL)

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("profile")


@receiver(email_confirmed)
def drop_unproven_password(
    request: HttpRequest, email_address: EmailAddress, **kwargs: Any
) -> None:
    """Whoever signed up with another's address, and could not confirm it, keeps no way in.

    Confirmed by a code to log in or to set a new password, the address is the mailbox's owner's;
    who had typed the password is not known. Confirmed in the sign-up itself, both are one person.
    """
    page = request.resolver_match.url_name
    user = email_address.user
    if page == "account_email_verification_sent" or not user.has_usable_password():
        return
    user.set_unusable_password()
    user.save(update_fields=["password"])
    if page == "account_confirm_login_code":
        messages.info(
            request,
            "The password from before the address was confirmed no longer counts. You can set a "
            "new one in your account.",
        )
