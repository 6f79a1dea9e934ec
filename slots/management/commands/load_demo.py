"""A clinic and a theatre to try the site with."""

import secrets
from contextlib import suppress
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.management.base import BaseCommand
from django.db import transaction
from django.utils import timezone

from accounts.models import User
from accounts.staff_groups import FRONT_DESK
from bookings import lifecycle
from bookings.errors import BookingError
from slots import inventory
from slots.models import Doctor, Show, Slot

ZONE = "Europe/Berlin"
DAYS = 14
APPOINTMENT = timedelta(minutes=30)
CONSULTING_HOURS = [time(9), time(9, 30), time(10), time(11), time(14), time(14, 30), time(15, 30)]

DOCTORS = [
    (
        "Dr. Amina Yusuf",
        "General practice",
        "Family doctor for young and old. Check-ups, vaccinations, and time to ask.",
    ),
    (
        "Dr. Jonas Lindqvist",
        "Cardiology",
        "Heart and circulation: examinations, blood pressure, and care after operations.",
    ),
    (
        "Dr. Mei Tanaka",
        "Dermatology",
        "Skin, hair and nails, from rashes to the yearly skin check.",
    ),
    (
        "Dr. Carlos Prieto",
        "Paediatrics",
        "For children from the first day on. Bring the vaccination card and a favourite toy.",
    ),
]
LOGINS = [
    ("Office", "admin@example.org"),
    ("Front desk", "desk@example.org"),
    ("Patient", "patient@example.org"),
]


class Command(BaseCommand):
    help = "Loads demo data and three demo logins, once: into a database without users."

    def handle(self, **options: Any) -> None:
        if User.objects.exists():
            if options["verbosity"]:
                self.stdout.write("There are users already, so no demo data was loaded.")
            return
        # The users come last: killed before them, this runs again, and goes on where it was.
        if not (Doctor.objects.exists() or Show.objects.exists()):
            create_inventory()
        book_some()
        create_users()
        self.stdout.write(
            f"Loaded demo data: {Doctor.objects.count()} doctors, {Show.objects.count()} shows, "
            f"{Slot.objects.count()} slots."
        )


def demo_logins(data_dir: Path) -> list[tuple[str, str, str]]:
    """What, e-mail and password of the demo logins, if this installation has any."""
    password = data_dir / "demo_password"
    if not password.exists():
        return []
    return [(what, email, password.read_text()) for what, email in LOGINS]


def create_users() -> None:
    """Their password is this installation's own, so that no one else's demo can be logged in to."""
    password = secrets.token_urlsafe(9)
    path = settings.DATA_DIR / "demo_password"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(password)
    with transaction.atomic():
        User.objects.create_superuser(LOGINS[0][1], password, name="Demo Staff")
        desk = User.objects.create_user(
            LOGINS[1][1], password, name="Demo Front Desk", is_staff=True
        )
        desk.groups.set(Group.objects.filter(name=FRONT_DESK))
        patient = User.objects.create_user(LOGINS[2][1], password, name="Demo Patient")
        for user in (desk, patient):
            user.set_address(confirmed=True)


def at(day: int, clock: time) -> datetime:
    """That many days from today, at that time in the demo's zone."""
    today = timezone.now().astimezone(ZoneInfo(ZONE)).date()
    return datetime.combine(today + timedelta(days=day), clock, ZoneInfo(ZONE))


@transaction.atomic
def create_inventory() -> None:
    for name, specialization, bio in DOCTORS:
        doctor = Doctor.objects.create(
            name=name, specialization=specialization, bio=bio, time_zone=ZONE
        )
        for day in range(1, DAYS + 1):
            if at(day, time(9)).weekday() > 4:
                continue
            for clock in CONSULTING_HOURS:
                start = at(day, clock)
                slot = inventory.create_slot(doctor, starts_at=start, ends_at=start + APPOINTMENT)
                inventory.add_places(slot, places=1)
    vaccination = inventory.create_slot(
        Doctor.objects.get(name="Dr. Amina Yusuf"),
        starts_at=at(6, time(17)),
        ends_at=at(6, time(18, 30)),
    )
    inventory.add_places(vaccination, places=12)

    studio = Show.objects.create(
        name="The Tide Clock",
        description="A chamber play about two lighthouse keepers and one winter.",
        venue="Studio, Harbour Theatre",
        time_zone=ZONE,
    )
    for day in (2, 5, 9):
        slot = create_performance(studio, at(day, time(20)), timedelta(minutes=95))
        inventory.add_rows(
            slot, rows=6, seats_per_row=10, aisles_after=(5,), accessible=("A1", "A10")
        )
    opera = Show.objects.create(
        name="The Magic Flute",
        description="Mozart's opera in two acts. Sung in German, with surtitles.",
        venue="Great Hall, Harbour Theatre",
        time_zone=ZONE,
    )
    for day in (4, 11):
        slot = create_performance(opera, at(day, time(19, 30)), timedelta(hours=3))
        inventory.add_rows(
            slot,
            section="Stalls",
            rows=14,
            seats_per_row=24,
            aisles_after=(6, 18),
            accessible=("N1", "N2", "N23", "N24"),
        )
        inventory.add_rows(slot, section="Balcony", rows=4, seats_per_row=20, aisles_after=(10,))
    club = Show.objects.create(
        name="Lantern Street Band",
        description="Brass, accordion and a dance floor. Standing only.",
        venue="Warehouse 9",
        time_zone=ZONE,
    )
    slot = create_performance(club, at(3, time(21)), timedelta(hours=4), Slot.Seating.GENERAL)
    inventory.add_places(slot, places=300)


def create_performance(
    show: Show,
    starts_at: datetime,
    length: timedelta,
    seating: Slot.Seating = Slot.Seating.NUMBERED,
) -> Slot:
    return inventory.create_slot(
        show, starts_at=starts_at, ends_at=starts_at + length, seating=seating
    )


def book_some() -> None:
    """Some bookings, so that the pages look lived in; the first performance is nearly sold out."""
    studio, opera = (
        Slot.objects.filter(show__name=name).order_by("starts_at").first()
        for name in ("The Tide Clock", "The Magic Flute")
    )
    appointments = Slot.objects.filter(doctor__isnull=False, last_seat_id__gt=0)
    parties = [(studio, 10)] * 5 + [(studio, 7)] + [(opera, n % 5 + 1) for n in range(30)]
    parties += [(slot, 1) for slot in appointments.order_by("starts_at", "id")[:60:3]]
    for number, (slot, quantity) in enumerate(parties):
        # One that an earlier, killed run held and that has lapsed since is left out.
        with suppress(BookingError):
            booking = lifecycle.hold(
                slot, quantity=quantity, idempotency_key=f"demo-booking-{number:06}"
            )
            lifecycle.confirm(booking, name="Demo Guest")  # no address: nobody is to get a mail
