"""One bundled PostgreSQL server on one data folder, shared by any number of processes.

Two lock files in the data folder carry it:

- `server.lock`, held exclusively by whoever initialises, starts or stops the server, and for the
  moment in which a process makes sure that it runs;
- `users.lock`, held shared by every process that uses the server. It is taken and tried under
  `server.lock` only, so nobody can join while the last one out is stopping the server.

The kernel drops both when a process dies, however it dies.
"""

import atexit
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from .cluster import DATABASE, LONG, PORT, ROLE, Cluster, create_database, lives
from .system import (
    EmbeddedPostgresError,
    default_data_dir,
    logger,
    make_data_folder,
    open_lock,
    os_errors_explained,
    take_lock,
)

__all__ = ["DATABASE", "PORT", "ROLE", "EmbeddedPostgresError", "Server", "default_data_dir"]


class Server:
    """The server on `data_dir`. Cheap to make: it touches nothing before `ensure_running`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.cluster = Cluster(self.data_dir)
        self.socket_dir = self.cluster.socket_dir
        self.log_dir = self.cluster.log_dir
        # The server's pid when last known to run, and whether it is believed to run still.
        self.postmaster_pid: int | None = None
        self._believed_running = False
        self._users_lock: int | None = None
        self._users_lock_owner: int | None = None
        self._server_lock: int | None = None
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"<Server {self.data_dir}>"

    def ensure_running(self) -> None:
        """Return once the server answers and this process counts among its users.

        Initialises and starts it at need, and makes its role and database; waits for recovery,
        however long that takes. Costs a look at one pid while the server is known to run.
        Raises EmbeddedPostgresError if the server cannot be had, or whatever else it answers.
        """
        if self._is_known_to_run():
            return
        with self._mutex:
            if self._is_known_to_run():
                return
            _in_use.add(self)
            make_data_folder(self.data_dir)
            with os_errors_explained(self.data_dir), self._exclusively():
                self._join_users()
                with self.cluster.bring_up() as connection:
                    create_database(connection)
                pid = self.cluster.read_pid_file()[1]
                # A server in another container, on a shared folder, has no pid that means anything.
                self.postmaster_pid = pid if pid and lives(pid) else None
                self._believed_running = True

    def forget(self) -> None:
        """Believe nothing: a connection was lost, so the next `ensure_running` shall look."""
        self._believed_running = False

    def connect(
        self, dbname: str = DATABASE, *, user: str = ROLE, timeout: int = 10
    ) -> psycopg.Connection:
        """Return a new autocommit connection to the running server; `timeout` is in seconds."""
        return self.cluster.connect(dbname, user=user, timeout=timeout)

    def stop_if_unused(self) -> None:
        """Leave the users; stop the server if that was the last one. No-op for a non-user."""
        # Whoever holds the mutex or the lock this long is starting the server for another user of
        # it, or stopping it: either way it is not for us to stop.
        if self._users_lock_owner != os.getpid() or not self._mutex.acquire(timeout=LONG):
            return
        try:
            if self._users_lock is None:
                return
            # Closed, not unlocked: a forked child may share it, and unlocking counts for both.
            os.close(self._users_lock)
            self._users_lock = None
            self._believed_running = False
            _in_use.discard(self)
            if not self.data_dir.exists():  # removed under the server, which then ends by itself
                return
            with os_errors_explained(self.data_dir), self._exclusively(timeout=LONG) as is_ours:
                if is_ours and self._is_unused():
                    self.cluster.stop()
        finally:
            self._mutex.release()

    # --- locks

    @contextmanager
    def _exclusively(self, *, timeout: float | None = None) -> Iterator[bool]:
        """Hold `server.lock`; yield whether we do, which is False only after `timeout` seconds."""
        descriptor = self._server_lock = open_lock(self.data_dir / "server.lock")
        try:
            yield take_lock(descriptor, fcntl.LOCK_EX, timeout=timeout)
        finally:
            self._server_lock = None
            os.close(descriptor)

    def _join_users(self) -> None:
        if self._users_lock is None:
            descriptor = open_lock(self.data_dir / "users.lock")
            take_lock(descriptor, fcntl.LOCK_SH)
            self._users_lock, self._users_lock_owner = descriptor, os.getpid()

    def _is_unused(self) -> bool:
        descriptor = open_lock(self.data_dir / "users.lock")
        try:
            return take_lock(descriptor, fcntl.LOCK_EX, timeout=0)
        finally:
            os.close(descriptor)

    def _drop_what_the_parent_holds(self) -> None:
        """In a forked child: its descriptors are copies, its beliefs and mutex are the parent's."""
        for descriptor in (self._users_lock, self._server_lock):
            if descriptor is not None:
                os.close(descriptor)
        self._users_lock = self._server_lock = None
        self._believed_running = False
        self._mutex = threading.Lock()

    # --- whether it runs

    def _is_known_to_run(self) -> bool:
        if not self._believed_running:
            return False
        return self.postmaster_pid is None or lives(self.postmaster_pid)


_in_use: set[Server] = set()


def _stop_unused_servers() -> None:
    for server in list(_in_use):
        try:
            server.stop_if_unused()
        except psycopg.Error as error:
            logger.warning("%s", error)


def _drop_what_the_parents_hold() -> None:
    for server in _in_use:
        server._drop_what_the_parent_holds()
    _in_use.clear()


# Registered on import and thus run late: whatever else says goodbye may still use the database.
atexit.register(_stop_unused_servers)
os.register_at_fork(after_in_child=_drop_what_the_parents_hold)
