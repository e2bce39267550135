"""Finds plugins that settings name: built-in ones, installed ones (entry points), and ones by their place."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from agent_core.errors import ConfigError
from agent_core.plugins.base import HOOKS
from agent_core.plugins.chain import hooks_of
from agent_core.security.declarations import Accepted, Declaration

GROUP = "sampan.plugins"

# Named here too, and not only as entry points, since a slimmed Lambda package has no metadata to find those by.
BUILT_IN = {
    "audit": "agent_core.plugins.audit:Audit",
    "greeting": "agent_core.plugins.greeting:Greeting",
    "redact": "agent_core.plugins.redact:Redact",
}


def load_plugins(names: Iterable[str], accepted: Accepted | None = None) -> list[object]:
    """The plugins of these names, in order. A name is a built-in's, an entry point's, or `module:object`.

    What is found may be a plugin, or a class or function that makes one without arguments. An entry point's must be
    as it was `accepted` (None: whatever it declares), before any code of it runs. Raises ConfigError.
    """
    return [_load(name.strip(), accepted) for name in names if name.strip()]


def declarations(names: Iterable[str]) -> list[Declaration]:
    """What the installed plugins among these names declare; built-in ones and `module:object` are your own choice."""
    wanted = [name.strip() for name in names if name.strip()]
    return [_installed(name) for name in wanted if name not in BUILT_IN and ":" not in name]


def _load(name: str, accepted: Accepted | None) -> Any:
    place = BUILT_IN.get(name) or (name if ":" in name else "")
    if not place:
        declared = _installed(name)
        refused = accepted.why_not(declared) if accepted else ""
        if refused:
            raise ConfigError(refused)
        place = declared.declares["place"]
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


def _installed(name: str) -> Declaration:
    """What the installed package says of its plugin of that name."""
    # When first asked for: reading what is installed takes its time.
    from importlib.metadata import entry_points

    found = entry_points(group=GROUP)
    places = {entry.value: entry for entry in found if entry.name == name}
    if not places:
        known = sorted({*BUILT_IN, *(entry.name for entry in found)})
        raise ConfigError(
            f"there is no plugin {name!r}; there are: {', '.join(known)}; or give it as module:object"
        )
    if len(places) > 1:
        raise ConfigError(
            f"plugin {name!r} is there more than once: {', '.join(sorted(places))}; give one as it stands"
        )
    ((place, entry),) = places.items()
    package = entry.dist.name if entry.dist else ""
    version = entry.dist.version if entry.dist else ""
    return Declaration(
        "plugin", package, name, {"name": name, "place": place, "package": package, "version": version}
    )


def _is_plugin(thing: object) -> bool:
    return any(hasattr(thing, hook) for hook in HOOKS)
