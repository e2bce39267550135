"""Finds plugins that settings name: built-in ones, installed ones (entry points), and ones by their place."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from agent_core.errors import ConfigError
from agent_core.plugins.base import HOOKS
from agent_core.plugins.chain import hooks_of

GROUP = "sampan.plugins"

# Named here too, and not only as entry points, since a slimmed Lambda package has no metadata to find those by.
BUILT_IN = {
    "audit": "agent_core.plugins.audit:Audit",
    "greeting": "agent_core.plugins.greeting:Greeting",
    "redact": "agent_core.plugins.redact:Redact",
}


def load_plugins(names: Iterable[str]) -> list[object]:
    """The plugins of these names, in order. A name is a built-in's, an entry point's, or `module:object`.

    What is found may be a plugin, or a class or function that makes one without arguments. Raises ConfigError.
    """
    return [_load(name.strip()) for name in names if name.strip()]


def _load(name: str) -> Any:
    place = BUILT_IN.get(name) or (name if ":" in name else _installed(name))
    module_name, _, path = place.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for step in path.split("."):
            found = getattr(found, step)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"plugin {name}: {place} can't be loaded: {error}") from error
    if isinstance(found, type) or (callable(found) and not _is_plugin(found)):
        try:
            found = found()
        except TypeError as error:
            raise ConfigError(f"plugin {name}: {place} can't be made without arguments: {error}") from error
    hooks_of(found)
    return found


def _installed(name: str) -> str:
    """Where the installed plugin of that name is."""
    # When first asked for: reading what is installed takes its time.
    from importlib.metadata import entry_points

    found = entry_points(group=GROUP)
    places = {entry.value for entry in found if entry.name == name}
    if not places:
        known = sorted({*BUILT_IN, *(entry.name for entry in found)})
        raise ConfigError(
            f"there is no plugin {name!r}; there are: {', '.join(known)}; or give it as module:object"
        )
    if len(places) > 1:
        raise ConfigError(
            f"plugin {name!r} is there more than once: {', '.join(sorted(places))}; give one as it stands"
        )
    return places.pop()


def _is_plugin(thing: object) -> bool:
    return any(hasattr(thing, hook) for hook in HOOKS)
