"""An agent together with the adapters that the wiring chose for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent_core.agent import Agent, Busy, Compaction, Limits, Responder, Untrusted
from agent_core.models.base import Model
from agent_core.plugins.chain import PluginChain
from agent_core.tools.toolbox import Toolbox


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What the engine works with: the agent (or another framework in its place), its model, tools and plugins.

    `output_schema` is the JSON schema of the agent's output type, `check_output` raises ValueError where a text is
    not of it. `model` is None for a Responder. `summarizer` makes the summaries of `compaction`.
    `egress` are the hosts and `channels` the channels that data may go to, None for any.
    """

    agent: Agent | Responder
    model: Model | None
    toolbox: Toolbox
    plugins: PluginChain
    output_schema: dict[str, Any] | None = None
    check_output: Callable[[str], object] | None = None
    limits: Limits = field(default_factory=Limits)
    busy: Busy = "enqueue"
    history: int = 40
    compaction: Compaction | None = None
    summarizer: Model | None = None
    approval_seconds: float = 300.0
    untrusted: Untrusted = "ask"
    egress: tuple[str, ...] | None = None
    channels: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.agent.name

    @property
    def description(self) -> str:
        """What the agent is for, for people who choose among several."""
        return getattr(self.agent, "description", "")
