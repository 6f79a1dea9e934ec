"""Makes the environment in .venv, then runs one of the project's tasks in it.

The only file that runs on the machine's own Python: the standard library alone, and a syntax that
old versions can read, so that they can say what is wrong.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys

BASE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(BASE, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
REQUIREMENTS = os.path.join(BASE, "requirements.txt")
STAMP = os.path.join(VENV, "installed")

TASKS = {
    "install": ["-c", ""],
    "run": ["-m", "booking_site.run"],
    "test": ["-m", "booking_site.tests"],
    "bench": ["-m", "bench"],
    "drill": ["-m", "booking_site.tests.drill"],
    "screenshots": ["-m", "booking_site.tests.screenshots"],
    "postman": ["manage.py", "postman"],
}


def fail(sentence: str) -> None:
    sys.exit("holdfast: " + sentence)


def make_environment() -> None:
    """Creates .venv with exactly requirements.txt, unless that is what is there.

    The stamp is written last: an environment that was killed half-way is made again.
    """
    with open(REQUIREMENTS, "rb") as file:
        wanted = sys.version + hashlib.sha256(file.read()).hexdigest()
    with open(REQUIREMENTS) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # `make run` and `make test` may start at once
        if os.path.exists(STAMP):
            with open(STAMP) as file:
                if file.read() == wanted:
                    return
        print("holdfast: installing into .venv (once, about half a minute) …", flush=True)
        if make_venv()[0] and not (install_venv_module() and make_venv()[0] == 0):
            fail("python3 cannot make virtual environments; install the package python3-venv.")
        pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install"]
        code, printed = run([*pip, "--quiet", "--requirement", REQUIREMENTS])
        if code:
            print(printed)
            fail("installing the requirements failed (see above); is there a network?")
        with open(STAMP, "w") as file:
            file.write(wanted)


def make_venv() -> tuple:
    return run([sys.executable, "-m", "venv", "--clear", VENV])


def install_venv_module() -> bool:
    """Debian keeps venv in a package of its own; root can have it. Returns whether it worked."""
    if os.getuid() != 0 or not shutil.which("apt-get"):
        return False
    package = "python%d.%d-venv" % sys.version_info[:2]
    run(["apt-get", "update", "-qq"])
    return run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package])[0] == 0


def run(command: list) -> tuple:
    """The exit code, and what it printed."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    printed = process.communicate()[0].decode("utf-8", "replace")
    return process.returncode, printed


def main() -> None:
    if sys.version_info < (3, 11):
        fail(
            "Python 3.11 or newer is needed, and this is %d.%d; install it, then name it: "
            "make run PYTHON=python3.12" % sys.version_info[:2]
        )
    if len(sys.argv) < 2 or sys.argv[1] not in TASKS:
        fail("choose a task: " + ", ".join(TASKS))
    if not os.access(BASE, os.W_OK):
        fail("the folder %s is not writable; make it so, or copy the project elsewhere." % BASE)
    make_environment()
    os.chdir(BASE)
    os.execv(PYTHON, [PYTHON] + TASKS[sys.argv[1]] + sys.argv[2:])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
