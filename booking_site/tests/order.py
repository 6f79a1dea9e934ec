"""Which files of tests come first, and no search for garbage in what was loaded before them.

Those that fork: a browser that this process has driven before can leave a forked one waiting for
an answer that it has. In this order, since two hundred buyers at once and two hundred more would be
too many for PostgreSQL's 300 connections. Then those that wait for processes and browsers, which
take long; the short ones fill what time is left at the end.
"""

import gc
import inspect
from types import ModuleType

import pytest

FORKING = ["test_races_processes", "test_limits", "test_adopt", "test_notices", "test_races"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {module: _rank(module) for module in {item.module for item in items}}
    items.sort(key=lambda item: ranks[item.module])


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(25_000, 20, 20)


def _rank(module: ModuleType) -> int:
    name = module.__name__.rpartition(".")[2]
    if name in FORKING:
        return FORKING.index(name)
    source = inspect.getsource(module)
    assert "kill_before(" not in source, f"{name} forks: it belongs into FORKING"
    return len(FORKING) + ("Server" not in source and "LiveSite" not in source)
