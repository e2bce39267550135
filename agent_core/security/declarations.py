"""What others declare: tools of another's making, installed plugins. It must be what was accepted.

A tool's description is read by the model like an instruction, so whoever may change it later may tell the model
what to do: the "rug pull" of OWASP's Agentic Top 10 (ASI04) and LLM03:2025. Hence each declaration is pinned by its
hash in a file that lies beside the agents and is reviewed and deployed like them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from agent_core.errors import ConfigError
from agent_core.tools.base import Tool

FILE = "accepted.json"
"""The file's name, in the folder of the agents."""

Kind = Literal["tool", "plugin"]
State = Literal["accepted", "new", "changed"]


class Declaration(msgspec.Struct, frozen=True):
    """What `source` (a server, a package) says of one thing of its making."""

    kind: Kind
    source: str
    name: str
    declares: dict[str, Any]

    @property
    def sha256(self) -> str:
        """The hash of what is declared; the order of its keys does not matter."""
        return hashlib.sha256(msgspec.json.encode(self.declares, order="sorted")).hexdigest()

    @property
    def place(self) -> tuple[str, str, str]:
        """Whose declaration it is."""
        return (self.kind, self.source, self.name)

    @property
    def title(self) -> str:
        """How people call it."""
        return f"{self.kind} {self.name} of {self.source}"


def of_tool(tool: Tool) -> Declaration:
    """What the source of a tool says of it."""
    return Declaration("tool", tool.source, tool.name, tool.declared)


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: Kind
    source: str
    name: str
    sha256: str
    declares: dict[str, Any]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    declarations: list[_Entry]


class Accepted:
    """The declarations that were accepted. Read when first asked for: where nobody else declares anything, never."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[tuple[str, str, str], Declaration] | None = None

    def state(self, declared: Declaration) -> State:
        """Whether it is as it was accepted. Raises ConfigError where the file can't be read."""
        known = self._read().get(declared.place)
        if known is None:
            return "new"
        return "accepted" if known.sha256 == declared.sha256 else "changed"

    def why_not(self, declared: Declaration) -> str:
        """Why it is refused and what to do, "" where it is accepted."""
        state = self.state(declared)
        if state == "accepted":
            return ""
        told = "was never accepted" if state == "new" else "declares something else than was accepted"
        return f"{declared.title} {told}; `sampan tools list` shows it, `sampan tools accept` accepts it"

    def difference(self, declared: Declaration) -> str:
        """What changed since it was accepted, as a diff; all of it where it is new."""
        # Only a person asks for it: never on the cold path.
        import difflib

        known = self._read().get(declared.place)
        before = _lines(known) if known else []
        return "\n".join(
            difflib.unified_diff(before, _lines(declared), "accepted", "declared now", lineterm="")
        )

    def accept(self, declared: Iterable[Declaration], *, only: bool = False) -> None:
        """Write down that these are accepted; `only` forgets all others. The file is replaced whole or not at all."""
        known = {} if only else dict(self._read())
        known |= {one.place: one for one in declared}
        entries = [
            _Entry(one.kind, one.source, one.name, one.sha256, one.declares)
            for _, one in sorted(known.items())
        ]
        text = msgspec.json.format(msgspec.json.encode(_File(1, entries), order="sorted"), indent=2)
        fresh = self.path.with_name(f".{self.path.name}.fresh")
        fresh.write_bytes(text + b"\n")
        fresh.replace(self.path)
        self._known = known

    def _read(self) -> dict[tuple[str, str, str], Declaration]:
        if self._known is None:
            try:
                data = self.path.read_bytes()
            except FileNotFoundError:
                data = b'{"version": 1, "declarations": []}'
            except OSError as error:
                raise ConfigError(f"{self.path} can't be read: {error.strerror}") from error
            self._known = {one.place: one for one in self._decoded(data)}
        return self._known

    def _decoded(self, data: bytes) -> Iterable[Declaration]:
        try:
            entries = msgspec.json.decode(data, type=_File).declarations
        except msgspec.DecodeError as error:
            raise ConfigError(f"{self.path} is no list of accepted declarations: {error}") from error
        for entry in entries:
            one = Declaration(entry.kind, entry.source, entry.name, entry.declares)
            if one.sha256 != entry.sha256:
                raise ConfigError(
                    f"{self.path}: {one.title} does not have the hash it was accepted with: the file was edited; "
                    "remove that entry, then `sampan tools accept`"
                )
            yield one


def beside(agents: str) -> Path:
    """Where the file is for agents in this folder, file or package."""
    place = Path(agents)
    if place.suffix == ".py":
        return place.parent / FILE
    if place.is_dir() or "." not in agents:
        return place / FILE
    return Path(*agents.split(".")) / FILE


def _lines(declared: Declaration) -> list[str]:
    """What is declared, for people: letters that a terminal would obey or hide are written out."""
    text = msgspec.json.format(msgspec.json.encode(declared.declares, order="sorted"), indent=2).decode()
    return [
        "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in line)
        for line in text.split("\n")
    ]
