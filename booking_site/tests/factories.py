"""Things to test with: `SlotFactory(places=3)`, `SlotFactory(rows=4, seats_per_row=6)`."""

from datetime import timedelta
from typing import Any

import factory
from django.contrib.auth.models import Group
from django.utils import timezone

from accounts.models import User
from accounts.staff_groups import FRONT_DESK
from slots import inventory
from slots.models import Doctor, Show, Slot

PASSWORD = "correct horse battery staple"


class UserFactory(factory.django.DjangoModelFactory):
    """Somebody who has confirmed the address, and can log in with PASSWORD."""

    class Meta:
        model = User

    email = factory.Sequence(lambda n: f"person{n}@example.org")
    name = factory.Faker("name")
    password = factory.django.Password(PASSWORD)

    @classmethod
    def _create(cls, model_class: type[User], *args: Any, **fields: Any) -> User:
        confirmed = fields.pop("confirmed", True)
        user = super()._create(model_class, *args, **fields)
        user.set_address(confirmed=confirmed)
        return user


class StaffFactory(UserFactory):
    """Somebody of the office, in one of the groups that the site starts with."""

    class Meta:
        skip_postgeneration_save = True

    is_staff = True

    @factory.post_generation
    def group(user: User, create: bool, name: str | None, **kwargs: Any) -> None:
        user.groups.add(Group.objects.get(name=name or FRONT_DESK))


class DoctorFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Doctor

    name = factory.Sequence(lambda n: f"Dr. Example {n}")
    specialization = "Cardiology"
    time_zone = "Europe/Berlin"


class ShowFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Show

    name = factory.Sequence(lambda n: f"Show {n}")
    venue = "Old Theatre"
    time_zone = "Europe/Berlin"


class SlotFactory(factory.django.DjangoModelFactory):
    """A slot that can be booked: of a new show tomorrow, with 10 places, unless told otherwise."""

    class Meta:
        model = Slot
        skip_postgeneration_save = True

    show = factory.SubFactory(ShowFactory)
    starts_at = factory.LazyFunction(lambda: timezone.now() + timedelta(days=1))
    ends_at = factory.LazyAttribute(lambda slot: slot.starts_at + timedelta(hours=2))

    @classmethod
    def _create(
        cls,
        model_class: type[Slot],
        *args: Any,
        places: int = 10,
        rows: int = 0,
        seats_per_row: int = 10,
        **fields: Any,
    ) -> Slot:
        if rows:
            fields["seating"] = Slot.Seating.NUMBERED
        cancelled_at = fields.pop("cancelled_at", None)
        slot = super()._create(model_class, *args, **fields)
        if rows:
            inventory.add_rows(slot, rows=rows, seats_per_row=seats_per_row)
        elif places:
            inventory.add_places(slot, places=places)
        if cancelled_at:  # only now: nothing is added to what was called off
            slot.cancelled_at = cancelled_at
            slot.save(update_fields=["cancelled_at"])
        return slot


class AppointmentFactory(SlotFactory):
    """A doctor's appointment: one unnumbered place."""

    show = None
    doctor = factory.SubFactory(DoctorFactory)
    ends_at = factory.LazyAttribute(lambda slot: slot.starts_at + timedelta(minutes=30))

    @classmethod
    def _create(cls, model_class: type[Slot], *args: Any, places: int = 1, **fields: Any) -> Slot:
        return super()._create(model_class, *args, places=places, **fields)
