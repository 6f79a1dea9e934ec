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
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from booking_site.embedded_postgres.server import default_data_dir
from booking_site.tests import chromium
from booking_site.tests.live_site import BASE_DIR, free_port

FOLDER = BASE_DIR / ".screenshots"
PICTURE = BASE_DIR / "docs" / "seats.png"
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}

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
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=chromium.ARGUMENTS)
            for scheme in ("light", "dark"):
                for size in SIZES:
                    take_all(browser, f"http://127.0.0.1:{port}", scheme, size)
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


def take_all(browser: Browser, url: str, scheme: str, size: str) -> None:
    """One visitor's way through the site, a picture of each page."""
    width, height = SIZES[size]
    context = browser.new_context(
        base_url=url,
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        device_scale_factor=2 if size == "phone" else 1,
        has_touch=size == "phone",
        reduced_motion="reduce",
    )
    page = context.new_page()

    def take(name: str, *, whole: bool = True) -> None:
        page.screenshot(path=FOLDER / f"{name}-{size}-{scheme}.png", full_page=whole)

    open_when_ready(page)
    take("home")
    page.goto("/shows/")
    page.get_by_role("link", name="The Magic Flute").first.click()
    take("show")
    page.locator("a[href^='/slots/']").first.click()
    free = page.locator("#hall [data-seat^='E1'] input[name=seat]")
    for number in range(3):
        free.nth(number).check(force=True)
    page.evaluate("scrollTo(0, document.getElementById('seat-grid').offsetTop - 20)")
    take("seats", whole=False)
    take("seats-whole")
    page.get_by_role("button", name="Hold these seats").click()
    page.wait_for_selector("#booking[data-state=PENDING]")
    take("hold")
    page.get_by_label("Name").fill("Ada Lovelace")
    page.get_by_label("E-mail address").fill("ada@example")
    page.locator("#details button[type=submit]").last.click()
    take("hold-invalid")
    page.get_by_label("E-mail address").fill("ada@example.org")
    page.locator("#details button[type=submit]").last.click()
    page.wait_for_selector("#booking[data-state=CONFIRMED]")
    take("confirmed")
    page.locator("a#cancel").click()
    take("cancel")
    page.get_by_role("button", name="Yes, cancel it").click()
    take("cancelled")
    for name, path in {
        "my-bookings": "/bookings/",
        "doctors": "/doctors/",
        "doctor": "/doctors/1/",
        "login": "/accounts/login/",
        "sign-up": "/accounts/signup/",
        "login-code": "/accounts/login/code/",
        "new-password": "/accounts/password/reset/",
        "not-found": "/nothing-here",
    }.items():
        page.goto(path)
        take(name)
    context.close()


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
