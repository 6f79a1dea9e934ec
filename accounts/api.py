"""Registering and logging in, for programs."""

from typing import Any

from allauth.account.adapter import get_adapter
from django.http import HttpRequest
from ninja import Field, Router, Schema, Status
from ninja.errors import AuthenticationError, ValidationError

from accounts import tokens
from accounts.forms import LoginForm, SignupForm
from booking_site.fields import Text
from booking_site.openapi import refuses
from booking_site.problems import consume

router = Router(tags=["Accounts"], auth=None)


class RegisterIn(Schema):
    email: Text = Field(examples=["ada@example.org"])
    password: Text = Field(examples=["correct horse battery staple"])
    name: Text = Field("", examples=["Ada Lovelace"])


class RegisteredOut(Schema):
    email: str
    name: str


class CredentialsIn(Schema):
    email: Text = Field(examples=["ada@example.org"])
    password: Text = Field(examples=["correct horse battery staple"])


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
    """Makes an account. The answer is the same if there is one already: its owner gets a mail."""
    consume(request, "signup", "Very many accounts come from your network address. Wait a minute.")
    form = SignupForm({"email": who.email, "password1": who.password, "name": who.name})
    if not form.is_valid():
        raise _invalid(form, password1="password")
    if form.account_already_exists:
        get_adapter().send_account_already_exists_mail(form.cleaned_data["email"])
    else:
        form.save(request)
    return Status(201, {"email": form.cleaned_data["email"], "name": form.cleaned_data["name"]})


@router.post(
    "auth/token",
    response=TokensOut,
    summary="Log in",
    openapi_extra=refuses("unauthenticated", "too_many"),
)
def token(request: HttpRequest, credentials: CredentialsIn) -> dict[str, str]:
    """Tokens for who has an account: `access` is sent as `Authorization: Bearer …`."""
    form = LoginForm(
        {"login": credentials.email, "password": credentials.password}, request=request
    )
    if not form.is_valid():
        raise AuthenticationError(message=" ".join(form.non_field_errors()))
    return tokens.issue(form.user)


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


def _invalid(form: Any, **names: str) -> ValidationError:
    """The form's messages by the names that the fields have here."""
    return ValidationError(
        [
            {"loc": ("body", "who", names.get(field, field)), "msg": message}
            for field, messages in form.errors.items()
            for message in messages
        ]
    )
