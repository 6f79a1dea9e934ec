from importlib import import_module
from typing import Any
from urllib.parse import unquote

import pytest
from django.apps import apps
from django.contrib.auth import authenticate
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection
from django.test import Client
from django.urls import reverse

from accounts.models import User
from booking_site.tests.factories import PASSWORD, SlotFactory, UserFactory
from bookings import browser
from slots.management.commands.load_demo import create_users, demo_logins

LOGIN = "/accounts/login/"

pytestmark = pytest.mark.django_db


def test_address_is_one_person_however_it_is_typed() -> None:
    user = User.objects.create_user("Ada@Example.ORG", PASSWORD)
    assert user.email == "ada@example.org"
    assert authenticate(username="ADA@example.org", password=PASSWORD) == user
    assert authenticate(username="ada@example.org", password="wrong") is None
    with pytest.raises(ValidationError) as refusal:
        User(email="aDa@example.org", password="x").full_clean()
    assert refusal.value.message_dict == {
        "email": ["There is an account with this e-mail address already."]
    }


@pytest.mark.django_db(transaction=True)
def test_database_refuses_an_address_in_capitals_and_one_twice() -> None:
    user = UserFactory()
    for value, constraint in [
        ("Ada@example.org", "user_email_is_lower_case"),
        (user.email, "accounts_user_email_key"),
    ]:
        with pytest.raises(IntegrityError) as refusal, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO accounts_user"
                " (email, name, password, is_superuser, is_staff, is_active, date_joined)"
                " VALUES (%s, '', '', false, false, true, now())",
                [value],
            )
        assert refusal.value.__cause__.diag.constraint_name == constraint


def test_superuser_is_staff_and_a_user_is_not() -> None:
    assert User.objects.create_superuser("boss@example.org", PASSWORD).is_staff
    user = User.objects.create_user("user@example.org")
    assert (user.is_staff, user.is_superuser, user.has_usable_password()) == (False, False, False)
    with pytest.raises(ValueError, match="A user needs an e-mail address"):
        User.objects.create_user("")


def test_admin_is_for_staff_and_finds_users_by_address(client: Client) -> None:
    UserFactory(email="grace@example.org")
    page = reverse("admin:accounts_user_changelist")
    client.force_login(UserFactory())
    assert client.get(page).status_code == 302
    client.force_login(UserFactory(is_staff=True))
    assert client.get(page).status_code == 403
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    assert "grace@example.org" in client.get(page, {"q": "grace"}).content.decode()
    add = reverse("admin:accounts_user_add")
    form = {
        "email": "New@Example.org",
        "name": "New",
        "usable_password": "true",
        "password1": PASSWORD,
        "password2": PASSWORD,
    }
    assert client.post(add, form).status_code == 302
    assert User.objects.get(email="new@example.org").check_password(PASSWORD)
    assert client.post(add, form).status_code == 200  # the address is taken: the form says so


def addresses(user: User) -> list[tuple[str, bool, bool]]:
    return list(user.emailaddress_set.values_list("email", "verified", "primary"))


def test_superuser_logs_in_without_confirming_anything(client: Client) -> None:
    boss = User.objects.create_superuser("Boss@example.org", PASSWORD)
    assert addresses(boss) == [("boss@example.org", True, True)]
    answer = client.post(LOGIN, {"login": boss.email, "password": PASSWORD})
    assert answer["Location"] == "/bookings/"


def test_demo_logins_need_no_code(client: Client, tmp_path: Any, settings: Any) -> None:
    settings.DATA_DIR = tmp_path
    create_users()
    for _, email, password in demo_logins(tmp_path):
        answer = Client().post(LOGIN, {"login": email, "password": password})
        assert answer["Location"] == "/bookings/"


def test_users_from_before_there_were_codes_count_as_confirmed() -> None:
    old = User.objects.create_user("old@example.org", PASSWORD)
    new = UserFactory(confirmed=False)
    import_module("accounts.migrations.0003_confirmed_addresses").confirm_all(apps, None)
    assert addresses(old) == [("old@example.org", True, True)]
    assert addresses(new) == [(new.email, False, True)]


def test_admin_has_no_login_of_its_own(client: Client) -> None:
    boss = UserFactory(is_staff=True, is_superuser=True)
    answer = client.get("/admin/slots/", follow=True)
    path, query = answer.redirect_chain[-1][0].split("?")
    assert path == LOGIN
    answer = client.post(
        LOGIN, {"login": boss.email, "password": PASSWORD, "next": unquote(query)[len("next=") :]}
    )
    assert answer["Location"] == "/admin/slots/"
    direct = Client().post("/admin/login/", {"username": boss.email, "password": PASSWORD})
    assert direct["Location"].startswith(LOGIN)
    # Who is logged in and may not is told so, and not sent in circles.
    client.force_login(UserFactory())
    answer = client.get("/admin/", follow=True)
    assert answer.status_code == 403
    assert "This is not for you to see" in answer.content.decode()


def test_admin_logs_out_by_the_same_way_as_everybody(client: Client) -> None:
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    client.post(f"/slots/{SlotFactory().pk}/hold", {"quantity": 1})
    assert client.cookies[browser.COOKIE].value
    answer = client.post("/admin/logout/")
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert client.cookies[browser.COOKIE].value == ""


def test_address_that_staff_type_in_is_confirmed_by_a_code(client: Client) -> None:
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    form = {"name": "New", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    add = reverse("admin:accounts_user_add")
    assert client.post(add, form | {"email": "New@Example.org"}).status_code == 302
    user = User.objects.get(email="new@example.org")
    assert addresses(user) == [("new@example.org", False, True)]
    user.set_address(confirmed=True)

    page = reverse("admin:accounts_user_change", args=[user.pk])
    form = {"name": "Renamed", "date_joined_0": "2026-01-01", "date_joined_1": "12:00"}
    form |= {"is_active": "on"}
    assert client.post(page, form | {"email": "new@example.org"}).status_code == 302
    assert addresses(user) == [("new@example.org", True, True)]
    assert client.post(page, form | {"email": "Other@example.org"}).status_code == 302
    assert addresses(user) == [("other@example.org", False, True)]
    for old, code in (("new@example.org", 200), ("other@example.org", 302)):
        answer = Client().post(LOGIN, {"login": old, "password": PASSWORD})
        assert answer.status_code == code


def test_admin_shows_addresses_at_the_user_alone(client: Client) -> None:
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    assert "/admin/account/" not in client.get("/admin/").content.decode()
