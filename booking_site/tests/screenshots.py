"""`make screenshots`: every page, as people see it, into .screenshots; and the README's picture.

On a site with fresh demo data of its own, on a phone and a desktop, light and dark.
"""

import base64
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import django
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from booking_site.embedded_postgres.server import default_data_dir
from booking_site.tests import chromium
from booking_site.tests.live_site import BASE_DIR, free_port

FOLDER = BASE_DIR / ".screenshots"
PICTURE = BASE_DIR / "docs" / "seats.png"
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}

# Pages by the name of their picture. In braces: what `prepare` made.
VISITOR = {
    "my-bookings-guest": "/bookings/",
    "shows": "/shows/",
    "shows-found": "/shows/?q=harbour&from={day}",
    "shows-none": "/shows/?q=nothing+like+it",
    "show": "/shows/{opera_show}/?available=on&from={day}",
    "show-called-off": "/shows/{studio_show}/",
    "slot-called-off": "/slots/{called_off}/",
    "slot-places": "/slots/{club}/",
    "slot-appointment": "/slots/{appointment}/",
    "doctors": "/doctors/",
    "doctors-found": "/doctors/?q=dr&on={day}&sort=name",
    "doctors-none": "/doctors/?q=nothing+like+it",
    "doctor": "/doctors/1/",
    "doctor-later": "/doctors/1/?from={later}",
    "login": "/accounts/login/",
    "sign-up": "/accounts/signup/",
    "login-code": "/accounts/login/code/",
    "new-password": "/accounts/password/reset/",
    "not-found": "/nothing-here",
}
PATIENT = {
    "home-patient": "/",
    "my-bookings": "/bookings/",
    "my-bookings-past": "/bookings/past/",
    "my-bookings-cancelled": "/bookings/cancelled/",
    "booking-past": "/bookings/{past}/",
    "booking-called-off": "/bookings/{lost}/",
    "move": "/bookings/{confirmed}/move",
    "move-to": "/bookings/{confirmed}/move/{opera_later}",
    "seats-own": "/slots/{opera}/",
    "profile": "/accounts/profile/",
    "change-address": "/accounts/email/",
    "change-password": "/accounts/password/change/",
    "logout": "/accounts/logout/",
    "not-allowed": "/admin/",
}
STAFF = {
    "home-staff": "/",
    "booking-staff": "/bookings/{confirmed}/",
    "office": "/admin/",
    "office-slots": "/admin/slots/slot/",
    "office-slot-add": "/admin/slots/slot/add/",
    "office-slot-numbered": "/admin/slots/slot/{opera}/change/",
    "office-slot-places": "/admin/slots/slot/{club}/change/",
    "office-slot-called-off": "/admin/slots/slot/{called_off}/change/",
    "office-seats": "/admin/slots/slot/{opera}/seats/",
    "office-seats-places": "/admin/slots/slot/{club}/seats/",
    "office-slot-cancel": "/admin/slots/slot/{opera}/cancel/",
    "office-slot-delete": "/admin/slots/slot/{opera}/delete/",
    "office-shows": "/admin/slots/show/",
    "office-show": "/admin/slots/show/{opera_show}/change/",
    "office-doctors": "/admin/slots/doctor/",
    "office-doctor": "/admin/slots/doctor/1/change/",
    "office-bookings": "/admin/bookings/booking/",
    "office-bookings-found": "/admin/bookings/booking/?state=confirmed&q=demo",
    "office-booking": "/admin/bookings/booking/{confirmed}/change/",
    "office-booking-cancel": "/admin/bookings/booking/{confirmed}/cancel/",
    "office-booking-held": "/admin/bookings/booking/{held}/change/",
    "office-booking-confirm": "/admin/bookings/booking/{held}/confirm/",
    "office-users": "/admin/accounts/user/",
    "office-user": "/admin/accounts/user/1/change/",
    "office-groups": "/admin/auth/group/",
    "office-history": "/admin/slots/slot/{opera}/history/",
}
DESK = {"not-yours": "/admin/slots/slot/add/"}

SIDE_BY_SIDE = """
<style>
  body {{ margin: 0; padding: 40px; display: flex; gap: 40px; align-items: flex-start;
          background: #dcd9cf }}
  img {{ border-radius: 14px; box-shadow: 0 8px 30px #0004 }}
</style>
<img width="1000" src="data:image/png;base64,{desktop}">
<img width="330" src="data:image/png;base64,{phone}">
"""


def main() -> None:
    path = chromium.find() or chromium.install()
    if not path:
        sys.exit(f"holdfast: {chromium.MISSING}")
    data_dir = default_data_dir(BASE_DIR, "screenshots")
    shutil.rmtree(data_dir, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    PICTURE.parent.mkdir(exist_ok=True)
    port = str(free_port())
    environment = os.environ | {"DATA_DIR": str(data_dir), "PORT": port, "DATABASE_URL": ""}
    site = subprocess.Popen(
        [sys.executable, "-m", "booking_site.run"], cwd=BASE_DIR, env=environment
    )
    try:
        wait_until_ready(data_dir, site)
        # In a process that ends: PostgreSQL is stopped by the last one that uses it.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as another:
            made = another.submit(prepare, environment).result()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=chromium.ARGUMENTS)
            url = f"http://127.0.0.1:{port}"
            password = (data_dir / "demo_password").read_text()
            logins = {
                who: log_in(browser, url, who, password) for who in ("patient", "admin", "desk")
            }
            for scheme in ("light", "dark"):
                for size in SIZES:
                    options = {"base_url": url, "color_scheme": scheme, **device(size)}
                    take = Camera(browser, options, f"{size}-{scheme}", made)
                    take.visit()
                    take.all(VISITOR)
                    take.all(PATIENT, logins["patient"])
                    take.all(STAFF, logins["admin"])
                    take.all(DESK, logins["desk"])
            join_picture(browser)
            browser.close()
    finally:
        site.send_signal(signal.SIGTERM)
        site.wait(timeout=60)
        shutil.rmtree(data_dir, ignore_errors=True)


def wait_until_ready(data_dir: Path, site: subprocess.Popen) -> None:
    """The lock file lists what runs as soon as the site is started."""
    deadline = time.monotonic() + 60
    lock = data_dir / "run.lock"
    while not (lock.exists() and lock.read_text()):
        if site.poll() is not None or time.monotonic() > deadline:
            sys.exit("holdfast: the site did not start; what it printed says why.")
        time.sleep(0.1)


def prepare(environment: dict[str, str]) -> dict[str, Any]:
    """What the demo lacks: bookings of its patient in every list, seats blocked, a slot called off.

    Returns what the addresses of the pages need.
    """
    os.environ.update(environment, DJANGO_SETTINGS_MODULE="booking_site.settings")
    django.setup()
    from django.conf import settings
    from django.utils import timezone

    from accounts.models import User
    from bookings import lifecycle
    from bookings.models import Booking
    from slots import inventory
    from slots.models import Slot

    settings.HOLD_SECONDS = settings.HOLD_MAX_SECONDS  # it is to be held in all pictures
    holder = lifecycle.Holder(user=User.objects.get(email="patient@example.org"))

    def slots_of(name: str) -> list[Slot]:
        return list(Slot.objects.filter(show__name=name).order_by("starts_at"))

    def book(slot: Slot, quantity: int = 1) -> Booking:
        booking = lifecycle.hold(slot, quantity=quantity, holder=holder)
        return lifecycle.confirm(booking, name="Demo Patient", email="patient@example.org")

    opera, opera_later = slots_of("The Magic Flute")
    called_off = slots_of("The Tide Clock")[2]
    club = slots_of("Lantern Street Band")[0]
    appointment, another = Slot.objects.filter(doctor__name="Dr. Mei Tanaka").bookable()[5:7]
    free = opera.seats.filter(section="Balcony", booking=None).order_by("-id")
    inventory.block_seats(opera, seat_ids=[seat.pk for seat in free[:4]], reason="Camera")
    held = lifecycle.hold(another, quantity=1, holder=holder)
    confirmed, lost = book(opera, 3), book(called_off, 2)
    lifecycle.cancel(book(club, 4), actor=holder)
    lifecycle.cancel_slot(called_off, actor="system", reason="The hall is flooded")
    day = timedelta(days=1)
    over = inventory.create_slot(
        opera.show,
        starts_at=opera.starts_at + day,
        ends_at=opera.ends_at + day,
        seating=Slot.Seating.GENERAL,
    )
    inventory.add_places(over, places=2)
    past = book(over, 2)
    Slot.objects.filter(pk=over.pk).update(
        starts_at=over.starts_at - 40 * day, ends_at=over.ends_at - 40 * day
    )
    today = timezone.now().date()
    return {
        "opera": opera.pk,
        "opera_later": opera_later.pk,
        "opera_show": opera.show_id,
        "studio_show": called_off.show_id,
        "called_off": called_off.pk,
        "club": club.pk,
        "appointment": appointment.pk,
        "held": held.pk,
        "confirmed": confirmed.pk,
        "lost": lost.pk,
        "past": past.pk,
        "day": today + 4 * day,
        "later": today + 60 * day,
    }


def device(size: str) -> dict[str, Any]:
    width, height = SIZES[size]
    is_phone = size == "phone"
    return {
        "viewport": {"width": width, "height": height},
        "device_scale_factor": 2 if is_phone else 1,
        "has_touch": is_phone,
        "reduced_motion": "reduce",
    }


def log_in(browser: Browser, url: str, who: str, password: str) -> Any:
    """The cookies of one of the demo's logins."""
    context = browser.new_context(base_url=url)
    page = context.new_page()
    open_when_ready(page)
    page.goto("/accounts/login/")
    page.get_by_label("E-mail address").fill(f"{who}@example.org")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Log out").wait_for()
    state = context.storage_state()
    context.close()
    return state


class Camera:
    """Takes pictures in one size and colour scheme."""

    def __init__(self, browser: Browser, options: dict, suffix: str, made: dict) -> None:
        self.browser, self.options, self.suffix, self.made = browser, options, suffix, made

    def open(self, login: Any = None) -> BrowserContext:
        return self.browser.new_context(**self.options, storage_state=login)

    def take(self, page: Page, name: str, *, whole: bool = True) -> None:
        page.screenshot(path=FOLDER / f"{name}-{self.suffix}.png", full_page=whole)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            print(f"{name}-{self.suffix}: the page is wider than the screen")

    def all(self, pages: dict[str, str], login: Any = None) -> None:
        with self.open(login) as context:
            page = context.new_page()
            for name, path in pages.items():
                page.goto(path.format(**self.made))
                self.take(page, name)

    def visit(self) -> None:
        """One visitor's way: holding, confirming, cancelling; and asking for a code."""
        with self.open() as context:
            page = context.new_page()
            page.goto("/")
            self.take(page, "home")
            page.goto(f"/slots/{self.made['opera']}/")
            free = page.locator("#hall [data-seat^='E1'] input[name=seat]")
            for number in range(3):
                free.nth(number).check(force=True)
            page.evaluate("scrollTo(0, document.getElementById('seat-grid').offsetTop - 20)")
            self.take(page, "seats", whole=False)
            self.take(page, "seats-whole")
            page.get_by_role("button", name="Hold these seats").click()
            page.wait_for_selector("#booking[data-state=PENDING]")
            self.take(page, "hold")
            page.get_by_label("Name").fill("Ada Lovelace")
            page.get_by_label("E-mail address").fill("ada@example")
            page.locator("#details button[type=submit]").last.click()
            self.take(page, "hold-invalid")
            page.get_by_label("E-mail address").fill("ada@example.org")
            page.locator("#details button[type=submit]").last.click()
            page.wait_for_selector("#booking[data-state=CONFIRMED]")
            self.take(page, "confirmed")
            page.locator("a#cancel").click()
            self.take(page, "cancel")
            page.get_by_role("button", name="Yes, cancel it").click()
            self.take(page, "cancelled")
            page.goto("/accounts/login/code/")
            page.get_by_label("E-mail address").fill(f"{self.suffix}@example.org")
            page.get_by_role("button", name="Send me a code").click()
            page.get_by_label("Code").fill("0000-0000")
            self.take(page, "code")


def open_when_ready(page: Page) -> None:
    for _ in range(100):
        try:
            page.goto("/")
            return
        except Exception:  # whatever a browser calls a refused connection
            time.sleep(0.1)
    page.goto("/")


def join_picture(browser: Browser) -> None:
    """Desktop and phone side by side."""
    shots = {
        size: base64.b64encode((FOLDER / f"seats-{size}-light.png").read_bytes()).decode()
        for size in SIZES
    }
    page = browser.new_page(viewport={"width": 1450, "height": 800})
    page.set_content(SIDE_BY_SIDE.format(**shots))
    page.screenshot(path=PICTURE)


if __name__ == "__main__":
    main()
