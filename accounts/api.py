"""Registering and logging in, for programs."""

from typing import Annotated

from allauth.account.adapter import get_adapter
from allauth.core import ratelimit
from django import forms
from django.http import HttpRequest
from ninja import Field, Router, Schema, Status
from ninja.errors import AuthenticationError, ValidationError
from pydantic import AfterValidator

from accounts import tokens
from accounts.adapter import LOCKED
from accounts.forms import LONGEST_PASSWORD, NOT_AN_ADDRESS, SignupForm
from booking_site.fields import Text, as_in
from booking_site.openapi import refuses
from booking_site.problems import consume, too_many

router = Router(tags=["Accounts"], auth=None)

CROWDED = "Very many {} come from your network address. Wait a minute, then try again."
MISMATCH = (
    "This e-mail address and password do not belong together. Try again. On the site you can log "
    "in with a code, or set a new password."
)
ADDRESS = forms.EmailField(
    max_length=254,
    error_messages=dict.fromkeys(("required", "invalid", "max_length"), NOT_AN_ADDRESS),
)
FIELDS = {"password1": "password"}  # what the API calls a field of the form


class RegisterIn(Schema):
    email: Text = Field(examples=["ada@example.org"])
    password: Text = Field(examples=["correct horse battery staple"])
    name: Text = Field("", examples=["Ada Lovelace"])


class RegisteredOut(Schema):
    email: str
    name: str


class CredentialsIn(Schema):
    email: Annotated[Text, AfterValidator(as_in(ADDRESS))] = Field(examples=["ada@example.org"])
    password: Text = Field(
        min_length=1, max_length=LONGEST_PASSWORD, examples=["correct horse battery staple"]
    )


class RefreshIn(Schema):
    refresh: Text


class TokensOut(Schema):
    access: str = Field(description="Good for 15 minutes.")
    refresh: str = Field(description="Good for two weeks, for new access tokens.")


@router.post(
    "auth/register",
    response={201: RegisteredOut},
    summary="Register",
    openapi_extra=refuses("too_many"),
)
def register(request: HttpRequest, who: RegisterIn) -> Status:
    """Makes an account. The answer is the same if there is one already: its owner gets a mail.

    The same address and password again are the same account. The address is not confirmed yet:
    logging in on the site does that.
    """
    consume(request, "signup", CROWDED.format("new accounts"))
    form = SignupForm({"email": who.email, "password1": who.password, "name": who.name})
    if not form.is_valid():
        raise _invalid(form)
    user, email = form.make_account(request), form.cleaned_data["email"]
    # Counted whether there was an account or not, so that the count does not tell either.
    may_mail = ratelimit.consume(request, action="confirm_email", key=email)
    if user is None and may_mail:
        get_adapter().send_account_already_exists_mail(email)
    return Status(201, {"email": email, "name": form.cleaned_data["name"]})


@router.post(
    "auth/token",
    response=TokensOut,
    summary="Log in",
    openapi_extra=refuses("unauthenticated", "too_many"),
)
def token(request: HttpRequest, credentials: CredentialsIn) -> dict[str, str]:
    """Tokens for who has an account: `access` is sent as `Authorization: Bearer …`."""
    consume(request, "login", CROWDED.format("logins"))
    adapter = get_adapter()
    try:
        user = adapter.authenticate(request, **credentials.dict())
    except forms.ValidationError:  # it raises no other: wrong passwords were too many
        raise too_many("login_failed", LOCKED) from None
    if user is None:
        raise AuthenticationError(message=MISMATCH)
    return tokens.issue(user)


@router.post(
    "auth/token/refresh",
    response=TokensOut,
    summary="Get a new access token",
    openapi_extra=refuses("unauthenticated"),
)
def refresh(request: HttpRequest, token: RefreshIn) -> dict[str, str]:
    """A new access token. The refresh token stays as it is, and good for as long."""
    found = tokens.refresh(token.refresh)
    if found is None:
        raise AuthenticationError(message=tokens.NO_TOKEN)
    return found


def _invalid(form: SignupForm) -> ValidationError:
    """The form's messages by the names that the fields have here."""
    return ValidationError(
        [
            {"loc": ("body", "who", FIELDS.get(field, field)), "msg": message}
            for field, messages in form.errors.items()
            for message in messages
        ]
    )
