"""The boundaries of the engine by name, where a test may stop or kill the process."""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def point(name: str) -> None:
    """Pass a boundary; does nothing unless a test watches."""
    if _hook is not None:
        _hook(name)


def watch(hook: Callable[[str], None] | None) -> None:
    """Call the hook at every boundary from now on; None stops it."""
    global _hook
    _hook = hook
