"""Finds the agents a user wrote: imports the modules of a folder or package and collects what is an agent.

Files are imported by their path, under a package name of our own, so that `agents/email.py` hides nobody's `email`
and a library that is itself called `agents` does no harm. Within the folder, `from .prices import table` works.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
import zlib
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from agent_core.agent import Agent, Responder
from agent_core.errors import ConfigError
from agent_core.settings import Settings


def load_agents(settings: Settings) -> list[Agent | Responder]:
    """All agents at module level in `settings.agents`, a folder, a .py file or an importable package.

    Modules whose name begins with an underscore are left to be imported by the others. Raises ConfigError where
    nothing is found, a module fails (with file and line), or two agents have one name.
    """
    found: dict[str, tuple[Agent | Responder, str]] = {}
    for module in _modules(settings.agents):
        place = _short(module.__file__ or module.__name__)
        for value in vars(module).values():
            agent = _agent(value)
            if agent is None:
                continue
            known, where = found.setdefault(agent.name, (agent, place))
            if known is not agent:
                raise ConfigError(
                    f"two agents are called {agent.name!r}, in {where} and in {place}: rename one"
                )
    if not found:
        raise ConfigError(
            f"there is no agent in {settings.agents!r}: "
            "put `agent = Agent(name=...)` at the top level of a .py file there"
        )
    return [agent for agent, _ in found.values()]


def _agent(value: object) -> Agent | Responder | None:
    """The value, where it is an agent. Looks at it statically: some libraries' proxies fail when touched."""
    if isinstance(value, Agent):
        return value
    if isinstance(value, type | ModuleType) or not callable(inspect.getattr_static(value, "respond", None)):
        return None
    return value if isinstance(value, Responder) else None


def _modules(source: str) -> Iterator[ModuleType]:
    path = Path(source).resolve()
    if path.is_dir():
        package = _package(path)
        if (path / "__init__.py").is_file():
            yield package
        for name in sorted({_module_name(entry) for entry in path.iterdir()} - {""}):
            yield _import(f"{package.__name__}.{name}", path)
    elif path.is_file() and path.suffix == ".py":
        yield _import(f"{_package(path.parent).__name__}.{path.stem}", path.parent)
    else:
        yield from _installed(source)


def _module_name(entry: Path) -> str:
    """What to import for an entry of the folder; "" for nothing."""
    name = entry.stem if entry.suffix == ".py" else entry.name if (entry / "__init__.py").is_file() else ""
    return "" if name.startswith(("_", ".")) or "." in name else name


def _package(folder: Path) -> ModuleType:
    """A package of our own name that stands for the folder; made once per folder."""
    name = f"sampan_agents_{zlib.crc32(str(folder).encode()):08x}"
    known = sys.modules.get(name)
    if known is not None:
        return known
    _reachable(folder.parent)
    init = folder / "__init__.py"
    places = [str(folder)]
    if init.is_file():
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=places)
    else:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = places
    if spec is None:
        raise ConfigError(f"{_short(str(init))} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if spec.loader is not None:
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # a user's code may raise anything; we say where
            del sys.modules[name]
            raise _failed(error, folder) from error
    return module


def _import(name: str, folder: Path) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a user's code may raise anything; we say where
        raise _failed(error, folder) from error


def _installed(source: str) -> Iterator[ModuleType]:
    _reachable(Path.cwd())
    parts = source.split(".")
    try:
        missing = not all(part.isidentifier() for part in parts) or importlib.util.find_spec(source) is None
    except ModuleNotFoundError as error:
        if error.name is None or not source.startswith(error.name):
            raise _failed(error, Path.cwd()) from error
        missing = True
    if missing:
        raise ConfigError(
            f"no folder, file or package {source!r} here: `sampan new NAME` makes a project, "
            "SAMPAN_AGENTS says where agents are"
        )
    package = _import(source, Path.cwd())
    yield package
    for place in getattr(package, "__path__", ()):
        for name in sorted({_module_name(entry) for entry in Path(place).iterdir()} - {""}):
            yield _import(f"{source}.{name}", Path(place))


def _reachable(folder: Path) -> None:
    """Let agents import modules that lie beside their folder; last in line, so that nothing is hidden."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _failed(error: BaseException, folder: Path) -> ConfigError:
    """What went wrong and where, in a user's words: the innermost line that is theirs."""
    words = error.detail if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        return ConfigError(
            f"{_short(error.filename)}, line {error.lineno}: {type(error).__name__}: {error.msg}"
        )
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    if isinstance(error, ModuleNotFoundError) and error.name and (folder / f"{error.name}.py").is_file():
        words += f" (a file of this folder is imported as `from .{error.name} import ...`)"
    if not own:
        return ConfigError(f"{_short(str(folder))}: {words}")
    return ConfigError(f"{_short(own[-1].filename)}, line {own[-1].lineno}: {words}")


def _short(path: str) -> str:
    """The path as seen from where the user stands."""
    place = Path(path)
    return str(place.relative_to(Path.cwd())) if place.is_relative_to(Path.cwd()) else path
