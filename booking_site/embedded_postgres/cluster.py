"""One PostgreSQL cluster: whether its server lives, and making, starting and stopping it.

Whether the server lives is asked of the server: it does if it answers a connection. Nothing here
locks; `server.py` calls all that changes anything under its lock.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from .system import (
    MAJOR_VERSION,
    EmbeddedPostgresError,
    find_binaries,
    logger,
    make_private_folder,
    run,
    server_account,
)

DATABASE = ROLE = "holdfast"
PORT = 5432  # no TCP port: the number only names the socket file

# Given on the command line, so that an existing cluster gets changes on its next start.
SETTINGS = {
    "port": str(PORT),
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "300",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",  # the answers "starting up" and so on are told apart by their text
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_lock_waits": "on",
    # Nothing of the rows and statements that failed: they hold people's names and addresses.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    # One file per weekday, begun anew when its day comes round again.
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgresql-%a.log",
    "log_file_mode": "0600",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
}

LONGEST_SOCKET_PATH = 103  # bytes in sockaddr_un without the final NUL: 107 on Linux, 103 on macOS
PATIENCE = 60  # seconds for a server that lives but neither answers nor says that it is starting
START_ATTEMPTS = 3
LONG = 10  # seconds that leaving may take before it is left to others
STARTING = ("starting up", "in recovery", "not yet accepting", "not accepting")
NO_TIME_LIMIT = "31536000"  # seconds for pg_ctl: recovery takes as long as it takes


class Cluster:
    """The cluster in `data_dir`/postgres."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.pgdata = data_dir / "postgres"
        self.log_dir = self.pgdata / "log"
        self.socket_dir = _socket_dir(data_dir)
        # Shown in the title of each of the server's processes.
        self.name = f"holdfast-{_digest(data_dir)}"

    def connect(
        self, dbname: str = DATABASE, *, user: str = ROLE, timeout: int = 10
    ) -> psycopg.Connection:
        """Return a new autocommit connection to the running server; `timeout` is in seconds."""
        return psycopg.connect(
            host=str(self.socket_dir),
            port=PORT,
            user=user,
            dbname=dbname,
            connect_timeout=timeout,
            autocommit=True,
        )

    def bring_up(self) -> psycopg.Connection:
        """Return a superuser connection to the server, whatever state it was found in.

        Makes and starts it at need, waits for recovery however long that takes. Raises
        EmbeddedPostgresError if it cannot be had.
        """
        self._check_cluster()
        make_private_folder(self.socket_dir, server_account())
        failures = 0
        silent_since = None
        while True:
            connection, reason = self._try_to_connect()
            if connection is not None:
                return connection
            if reason == "starting":
                silent_since = None
                time.sleep(0.05)
                continue
            pid_file = self.read_pid_file()
            if processes := self._living_processes():
                # Not listening yet, stopping, or children that outlive a killed server a moment.
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE:
                    pids = [process.pid for process in processes]
                    if pid_file[1] in pids:
                        pids = [pid_file[1]]
                    raise EmbeddedPostgresError(
                        f"PostgreSQL runs on {self.pgdata} but does not answer on "
                        f"{self.socket_dir}; end it (kill -INT {' '.join(map(str, pids))}) and "
                        "start again."
                    )
                time.sleep(0.05)
                continue
            silent_since = None
            self._remove_leftovers(*pid_file)
            try:
                self._start()
            except EmbeddedPostgresError:
                failures += 1
                if failures == START_ATTEMPTS:
                    raise

    def _check_cluster(self) -> None:
        """Make the cluster if there is none. Raises EmbeddedPostgresError if it is not for us."""
        account = server_account()
        owner = os.geteuid() if account is None else account.pw_uid
        if self.pgdata.exists() and self.pgdata.stat().st_uid != owner:
            raise EmbeddedPostgresError(
                f"{self.pgdata} belongs to uid {self.pgdata.stat().st_uid}, and PostgreSQL would "
                f"run as uid {owner}; start the site as the user who made it."
            )
        try:
            version = (self.pgdata / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            self._initialise()
            return
        if version != str(MAJOR_VERSION):
            raise EmbeddedPostgresError(
                f"The data in {self.pgdata} is of PostgreSQL {version or 'unknown'}, but the "
                f"bundled one is {MAJOR_VERSION}; dump it with its own version and load it into "
                "a new folder, or move it away to begin with an empty one."
            )

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there when it is whole."""
        if self.pgdata.exists() and any(self.pgdata.iterdir()):
            raise EmbeddedPostgresError(
                f"{self.pgdata} is not empty, and not a PostgreSQL data folder; move it away."
            )
        account = server_account()
        self._remove_unfinished_clusters()
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.data_dir))
        if account is not None:
            os.chown(new, account.pw_uid, account.pw_gid)
        command = [str(find_binaries(account) / "initdb"), f"--pgdata={new}"]
        command += ["--username=postgres", "--auth-local=trust", "--auth-host=reject"]
        command += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        result = run(command, account, cwd=new)
        if result.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise self._failure("initialise its data folder", result.stdout)
        new.rename(self.pgdata)
        _sync_folder(self.data_dir)
        logger.info("initialised PostgreSQL's data folder %s", self.pgdata)

    def _remove_unfinished_clusters(self) -> None:
        """Remove what starters that were killed left; their initdb may be at it for a moment."""
        for leftover in self.data_dir.glob("postgres.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _remove_leftovers(self, seen: bytes, pid: int | None) -> None:
        """Remove the files of a dead server that PostgreSQL takes for a living one's.

        `seen` is the pid file as it was before nobody was found alive. A pid of no process is
        left to PostgreSQL, which looks at the old shared memory too before it goes on.
        """
        if self.read_pid_file()[0] != seen:  # somebody starts it by hand at this moment
            return
        for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (self.socket_dir / name).unlink(missing_ok=True)
        pid_file = self.pgdata / "postmaster.pid"
        if pid_file.exists() and (pid is None or exists(pid)):
            pid_file.unlink()
            logger.info("removed the stale pid file of %s", self.pgdata)

    def _start(self) -> None:
        """Start the server and wait until it is ready. Raises EmbeddedPostgresError if it ends."""
        self._remove_unfinished_clusters()
        self._remove_old_logs()
        socket_dir = str(self.socket_dir).replace('"', '""')
        options = ["-D", str(self.pgdata)]
        for name, value in SETTINGS.items():
            options += ["-c", f"{name}={value}"]
        options += ["-c", f'unix_socket_directories="{socket_dir}"']
        options += ["-c", f"cluster_name={self.name}"]
        result = self._pg_ctl("start", "--log=startup.log", f"--options={shlex.join(options)}")
        if result.returncode != 0:
            raise self._failure("start", self._last_words() or result.stdout)
        logger.info("started PostgreSQL on %s", self.pgdata)

    def stop(self) -> None:
        """Stop the server, if there is one, after it has written everything out."""
        deadline = time.monotonic() + LONG
        # pg_ctl would signal whatever process the file names, so it must be one of the cluster's.
        # There may be none yet: whoever was starting it may have been interrupted.
        while pids := [process.pid for process in self._living_processes()]:
            if self.read_pid_file()[1] in pids:
                break
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
        else:
            return
        result = self._pg_ctl("stop", "--mode=fast")
        if result.returncode != 0:
            raise self._failure("stop", result.stdout)
        logger.info("stopped PostgreSQL on %s", self.pgdata)

    def _pg_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pg_ctl and wait. It hands its options to a shell, and quotes folders badly: the
        cluster goes by PGDATA and the log by the working folder instead."""
        account = server_account()
        pg_ctl = str(find_binaries(account) / "pg_ctl")
        command = [pg_ctl, *arguments, "--wait", "--silent", f"--timeout={NO_TIME_LIMIT}"]
        return run(command, account, cwd=self.pgdata, env={"PGDATA": str(self.pgdata)})

    def _remove_old_logs(self) -> None:
        """Remove the last start's words, and logs of last week that today's would be added to."""
        (self.pgdata / "startup.log").unlink(missing_ok=True)
        for log in self.log_dir.glob("postgresql-*.log"):
            if time.time() - log.stat().st_mtime > 6 * 24 * 3600:
                log.unlink(missing_ok=True)

    def _last_words(self) -> str:
        """Return why the last start failed, as the logs have it, or an empty string."""
        logs = [self.pgdata / "startup.log"]
        logs += sorted(self.log_dir.glob("*.log"), key=lambda log: log.stat().st_mtime)[-1:]
        for log in logs:
            if log.exists():
                text = log.read_text(errors="replace").rpartition("starting PostgreSQL")[2]
                fatal = [line for line in text.splitlines() if "FATAL" in line or "PANIC" in line]
                if fatal:
                    return fatal[0]
        return ""

    def _failure(self, aim: str, output: str) -> EmbeddedPostgresError:
        if "No space left" in output or shutil.disk_usage(self.data_dir).free < 2**24:
            return EmbeddedPostgresError(
                f"PostgreSQL could not {aim}: the disk that holds {self.data_dir} is full; free "
                "some space and start again."
            )
        said = [line.strip() for line in output.splitlines() if line.strip()] or ["no reason given"]
        reason = next((line for line in said if "error:" in line), said[-1])
        return EmbeddedPostgresError(
            f"PostgreSQL could not {aim} ({reason}); look into its logs in {self.log_dir}."
        )

    # --- whether it lives

    def _try_to_connect(self) -> tuple[psycopg.Connection | None, str]:
        """Return a superuser connection, or None and the reason: "starting" or "silent".

        Any other refusal ("too many clients") comes from a server that runs, and is raised.
        """
        try:
            return self.connect("postgres", user="postgres"), ""
        except psycopg.OperationalError as error:
            # Only after FATAL is it the server that speaks; before, there is the folder's name.
            _, fatal, answer = str(error).rpartition("FATAL:")
            if fatal and any(phrase in answer for phrase in STARTING):
                return None, "starting"
            if fatal and "shutting down" not in answer:
                raise
            return None, "silent"

    def _living_processes(self) -> list[psutil.Process]:
        """Return the cluster's living processes: the server's, and a pg_ctl that starts it."""
        return [
            process
            for process in psutil.process_iter(["name", "status"])
            if process.info["name"] in ("postgres", "pg_ctl")
            and process.info["status"] != psutil.STATUS_ZOMBIE
            and self._is_of_cluster(process)
        ]

    def _is_of_cluster(self, process: psutil.Process) -> bool:
        try:
            return process.cwd() == str(self.pgdata)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # root in a container may not see that; titles it may
            try:
                return self.name in " ".join(process.cmdline())
            except psutil.Error:
                return False

    def read_pid_file(self) -> tuple[bytes, int | None]:
        """Return the content of the server's pid file and the pid in it, if there is one."""
        try:
            content = (self.pgdata / "postmaster.pid").read_bytes()
        except FileNotFoundError:
            return b"", None
        first = content.partition(b"\n")[0].strip()
        return content, (int(first) or None) if first.isdigit() and len(first) < 10 else None


def _digest(data_dir: Path) -> str:
    return sha256(os.fsencode(data_dir)).hexdigest()[:12]


def _socket_dir(data_dir: Path) -> Path:
    """Return the socket's folder: in the data folder, or in /tmp where that cannot be addressed.

    It depends on the data folder alone, not on TMPDIR: the shell, cron and the web server of one
    site must come to the same. libpq takes a comma in it for two hosts.
    """
    folder = data_dir / "socket"
    longest = folder / f".s.PGSQL.{PORT}"
    if len(os.fsencode(longest)) <= LONGEST_SOCKET_PATH and "," not in str(folder):
        return folder
    return Path("/tmp") / f"holdfast-{_digest(data_dir)}"


def lives(pid: int) -> bool:
    """Return whether the process lives. Unlike `exists`, a killed one that awaits its parent's
    notice does not: in a container nobody may ever take it. Costs some 20 µs."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except OSError:  # another system, or a /proc that shows us only our own
        return exists(pid)
    return state not in (b"Z", b"X")


def exists(pid: int) -> bool:
    """Return whether the pid is taken, as PostgreSQL sees it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_database(connection: psycopg.Connection) -> None:
    """Create the site's role and database where missing. CREATEDB is for the test database."""
    role, database = sql.Identifier(ROLE), sql.Identifier(DATABASE)
    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [ROLE]).rowcount:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB").format(role))
    if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).rowcount:
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
