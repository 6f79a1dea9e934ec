"""The Django database backend: PostgreSQL's own, on a server that is started at need.

Set ENGINE to "booking_site.embedded_postgres" and DATA_DIR to the data folder. NAME and USER have
defaults; HOST and PORT are the server's.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql import base as postgresql
from django.utils.asyncio import async_unsafe

from .server import DATABASE, PORT, ROLE, Server

_servers: dict[str, Server] = {}


def get_server(data_dir: Path | str) -> Server:
    """Return this process's one Server for the data folder, for all its threads and aliases."""
    key = str(data_dir)
    if key not in _servers:  # of two threads that get here together one finds the other's
        _servers.setdefault(key, Server(Path(data_dir)))
    return _servers[key]


class DatabaseWrapper(postgresql.DatabaseWrapper):
    # The server that the pool of each alias was filled from.
    _pool_sources: dict[str, int | None] = {}

    def __init__(self, settings_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(settings_dict, *args, **kwargs)
        settings_dict["HOST"] = str(self.server.socket_dir)
        settings_dict["PORT"] = str(PORT)
        settings_dict["USER"] = settings_dict["USER"] or ROLE
        if settings_dict["NAME"] == "":  # None stands for the maintenance database
            settings_dict["NAME"] = DATABASE

    @cached_property
    def server(self) -> Server:
        """The server of DATA_DIR. Raises ImproperlyConfigured if that is not set."""
        if not self.settings_dict.get("DATA_DIR"):
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}] has no DATA_DIR; set it to a folder for the data."
            )
        return get_server(self.settings_dict["DATA_DIR"])

    @async_unsafe
    def get_new_connection(self, conn_params: dict[str, Any]) -> psycopg.Connection:
        """Return a connection to the server, which is started first if it does not run."""
        self.server.ensure_running()
        if self.pool:
            self._drain_pool_of_another_server()
        try:
            return super().get_new_connection(conn_params)
        except psycopg.OperationalError:
            self.server.forget()
            if self.pool:  # it has waited for its time-out already
                raise
        self.server.ensure_running()
        return super().get_new_connection(conn_params)

    def is_usable(self) -> bool:
        """Return whether the connection lives; if not, the server will be looked at again."""
        usable = super().is_usable()
        if not usable:
            self.server.forget()
        return usable

    def _drain_pool_of_another_server(self) -> None:
        """Throw away connections to a server that has died since, before one is handed out."""
        current = self.server.postmaster_pid
        if self._pool_sources.setdefault(self.alias, current) != current:
            self._pool_sources[self.alias] = current
            self.pool.drain()
