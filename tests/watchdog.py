"""Ends a run of the tests that hangs: it prints the stacks of all threads of all its processes and exits with 70.

pytest-timeout ends a test that takes too long, once; what then hangs in the test's teardown has a time of its own here.
Where even that doesn't help, no test finishes any more, and the process that was started first (with xdist, the one
that hands out the tests) gives up: after SAMPAN_TESTS_QUIET seconds without a finished test, or after
SAMPAN_TESTS_WHOLE seconds in all. Both are counted until the process is gone, so an exit that hangs ends too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

QUIET, WHOLE = 600.0, 4800.0
EXIT = 70
_SETTINGS = pytest.StashKey[Any]()
_IN_C = 60.0
"""Seconds more until the interpreter's own watchdog, which needs no lock: a pattern may hold it without end."""


class Watchdog:
    """Of one process; only the first of a run watches, the others print their stacks when they are asked."""

    def __init__(self, *, watches: bool, quiet: float, whole: float) -> None:
        self._error = os.dup(sys.__stderr__.fileno())  # pytest takes standard error away while tests run
        self._quiet, self._watches = quiet, watches
        self._end = time.monotonic() + whole
        self._workers: set[int] = set()
        faulthandler.register(signal.SIGUSR1, file=self._error, all_threads=True)
        self._finished = time.monotonic()
        if watches:
            self._sign_of_life()
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_newgateway(self, gateway: Any) -> None:
        self._workers.add(gateway._rinfo().pid)

    def pytest_runtest_logreport(self) -> None:
        if self._watches:
            self._sign_of_life()

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> None:
        item.stash[_SETTINGS] = settings

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        if (settings := item.stash.get(_SETTINGS, None)) is not None:
            item.ihook.pytest_timeout_cancel_timer(item=item)
            item.ihook.pytest_timeout_set_timer(item=item, settings=settings)
        return (yield)

    def _sign_of_life(self) -> None:
        self._finished = time.monotonic()
        faulthandler.dump_traceback_later(self._quiet + _IN_C, exit=True, file=self._error)

    def _watch(self) -> None:
        pause = threading.Event()
        while (now := time.monotonic()) < min(self._end, self._finished + self._quiet):
            pause.wait(min(self._end, self._finished + self._quiet) - now)
        why = f"no test finished for {self._quiet:g} s" if now < self._end else "the run took too long"
        os.write(self._error, f"\nwatchdog: {why}; the stacks of all threads:\n".encode())
        faulthandler.dump_traceback(file=self._error, all_threads=True)
        children = descendants(os.getpid())
        for worker in self._workers.intersection(children):
            os.write(self._error, f"\nwatchdog: the worker process {worker}:\n".encode())
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGUSR1)
            pause.wait(1)
        for process in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        os._exit(EXIT)


def descendants(process: int) -> list[int]:
    """The processes that this one started, and those they started, as far as the system tells."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found, look = [], [process]
    while look:
        look = [child for parent in look for child in parents.get(parent, [])]
        found += look
    return found


def pytest_configure(config: pytest.Config) -> None:
    quiet = float(os.environ.get("SAMPAN_TESTS_QUIET", QUIET))
    whole = float(os.environ.get("SAMPAN_TESTS_WHOLE", WHOLE))
    watches = not hasattr(config, "workerinput")
    config.pluginmanager.register(Watchdog(watches=watches, quiet=quiet, whole=whole), "watchdog-of-the-run")
