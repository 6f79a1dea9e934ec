"""The browser of the browser tests: one that is on the machine, or one that can be installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
ARGUMENTS = [
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MISSING = (
    "the browser tests need Chromium, and it could not be installed; an administrator can: "
    "`apt-get install chromium` (Debian), `dnf install chromium` (Fedora), or set CHROMIUM to "
    "the path of one."
)


def find() -> str | None:
    """The path of a Chromium that starts here, or None. CHROMIUM, where set, names it."""
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), _of_playwright()]
    return next((path for path in candidates if path and _starts(path)), None)


def install() -> str | None:
    """Installs one: Debian's as root, else Playwright's. Returns its path, or None."""
    is_root = os.getuid() == 0
    if is_root and shutil.which("apt-get") and _is_debian():
        print("holdfast: installing Chromium (once) …", flush=True)
        _try("apt-get", "update", "-qq")
        _try("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium")
    if not find():
        print("holdfast: downloading Chromium (once) …", flush=True)
        with_system_libraries = ["--with-deps"] if is_root and shutil.which("apt-get") else []
        _try(sys.executable, "-m", "playwright", "install", *with_system_libraries, "chromium")
    return find()


def _of_playwright() -> str | None:
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def _starts(path: str) -> bool:
    """Whether it really shows a page: one without its libraries, or a stub, does not."""
    page = [path, "--headless", *ARGUMENTS, "--dump-dom", "data:text/html,<p>works</p>"]
    try:
        answer = subprocess.run(page, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"<p>works</p>" in answer.stdout


def _is_debian() -> bool:
    release = Path("/etc/os-release")
    return release.exists() and "\nID=debian" in "\n" + release.read_text()


def _try(*command: str) -> None:
    """Runs it; what it prints is of interest only if it fails."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"holdfast: {error}")
        return
    if answer.returncode:
        print(f"holdfast: {' '.join(command)} failed: {answer.stderr.strip()[-500:]}")
