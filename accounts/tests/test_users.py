import pytest
from django.contrib.auth import authenticate
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection
from django.test import Client
from django.urls import reverse

from accounts.models import User
from booking_site.tests.factories import SlotFactory, UserFactory
from bookings import lifecycle
from bookings.lifecycle import Holder

PASSWORD = "correct horse battery staple"

pytestmark = pytest.mark.django_db(transaction=True)


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


def test_login_leads_to_ones_bookings_and_logout_home(client: Client) -> None:
    user = UserFactory(email="ada@example.org")
    booking = lifecycle.hold(SlotFactory(), quantity=1, holder=Holder(user=user))
    refused = client.post(reverse("login"), {"username": "ada@example.org", "password": "wrong"})
    assert (refused.status_code, "sessionid" in client.cookies) == (200, False)
    assert "Please enter a correct" in refused.content.decode()
    answer = client.post(reverse("login"), {"username": "Ada@example.org", "password": PASSWORD})
    assert (answer.status_code, answer["Location"]) == (302, reverse("my_bookings"))
    assert booking.get_absolute_url() in client.get(answer["Location"]).content.decode()
    assert client.get(reverse("logout")).status_code == 405  # a link logs nobody out
    assert client.post(reverse("logout"))["Location"] == reverse("home")
    assert booking.get_absolute_url() not in client.get(reverse("my_bookings")).content.decode()


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
