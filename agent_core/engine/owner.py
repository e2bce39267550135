"""Which process holds a lease, and whether it is still there: told by processes of the same machine alone."""

from __future__ import annotations

import os
from functools import cache

import msgspec


class Holder(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who holds a lease.

    `timeline` is that of its clock: where it is the observer's too, both run on one machine and their monotonic times
    may be compared. `process` names the process there; `seconds` is how long the lease lasts without a renewal.
    """

    timeline: str = ""
    process: str = ""
    seconds: float = 0.0


def this_process() -> str:
    """`<pid namespace>/<pid>/<when it started>`: nothing else on this machine has this name, before its next boot."""
    return _name(os.getpid())


@cache  # by process id, as a fork is another process
def _name(pid: int) -> str:
    started = _started(pid)
    space = _namespace()
    return f"{space}/{pid}/{started}" if started and space else ""


def is_gone(process: str) -> bool:
    """Whether a process of this machine has ended; False where that can't be told.

    A process in another namespace can't be seen from here, and one that may not be looked at is there.
    """
    space, _, rest = process.partition("/")
    pid, _, started = rest.partition("/")
    if not started or not pid.isdigit() or space != _namespace():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    now = _started(int(pid))
    return bool(now) and now != started  # the number was given to another process


@cache
def _namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Ticks from boot to the start of a process: field 22 of its `stat`, behind a name that may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""
