"""Staff, and how they fill in the forms of the office, for tests."""

from typing import Any

from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from accounts.models import User
from booking_site.tests.factories import UserFactory
from slots.models import Doctor, Show, Slot

ALL_OF_SLOTS = ["view_slot", "add_slot", "change_slot", "delete_slot", "cancel_slot"]


def staff(*codenames: str) -> User:
    user = UserFactory(is_staff=True)
    permissions = Permission.objects.filter(codename__in=codenames)
    assert len(permissions) == len(codenames)
    user.user_permissions.set(permissions)
    return user


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def office(*codenames: str) -> Client:
    """The browser of somebody who may do that."""
    return logged_in(staff(*codenames))


def url(page: str, slot: Slot | None = None) -> str:
    return reverse(f"admin:slots_slot_{page}", args=[slot.pk] if slot else [])


def clock(name: str, text: str) -> dict[str, str]:
    """“2030-06-01 14:00” in the two inputs of a field."""
    date, _, time = text.partition(" ")
    return {f"{name}_0": date, f"{name}_1": time}


def slot_form(
    subject: Doctor | Show | None,
    starts: str = "2030-06-01 14:00",
    ends: str = "2030-06-01 14:30",
    opens: str = "",
    closes: str = "",
    **fields: Any,
) -> dict[str, Any]:
    """What the form of a new slot sends: one place, unless told otherwise."""
    chosen = {subject._meta.model_name: subject.pk} if subject else {}
    times = (
        clock("starts_at", starts)
        | clock("ends_at", ends)
        | clock("opens_at", opens)
        | clock("closes_at", closes)
    )
    return chosen | times | {"seating": "GENERAL", "places": "1"} | fields


def errors(response: Any, form: str = "adminform") -> list[str]:
    """All that the form says is wrong."""
    assert response.status_code == 200, response.status_code
    bound = response.context[form]
    return [text for texts in getattr(bound, "form", bound).errors.values() for text in texts]


def told(response: Any) -> list[str]:
    """The messages on the page that a redirect led to."""
    return [str(message) for message in response.context["messages"]]
