"""Which tests come first.

Those that fork: a browser that this process has driven before can leave a forked one waiting for an
answer that it has. Then those that wait for processes and browsers, which take long; the short ones
fill what time is left at the end.
"""

import inspect
from types import ModuleType

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {module: _rank(module) for module in {item.module for item in items}}
    items.sort(key=lambda item: ranks[item.module])


def _rank(module: ModuleType) -> int:
    source = inspect.getsource(module)
    if "kill_before" in source or "processes=" in source:
        return 0
    return 1 if "Server" in source or "LiveSite" in source else 2
