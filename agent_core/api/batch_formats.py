"""How lines of a batch are written: as OpenAI's batch lines, or as the body of `POST /api/v1/agent`.

https://platform.openai.com/docs/guides/batch: a line is {custom_id, method, url, body}; its result is {id, custom_id,
response: {status_code, request_id, body}, error}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent_core.api import problems
from agent_core.api.agent import read_messages as read_agent_messages
from agent_core.api.bodies import decode
from agent_core.api.chat import chat_inbound, decode_chat
from agent_core.api.chat_wire import completion
from agent_core.api.schemas import AgentRequest
from agent_core.api.views import cost_view, reply_view
from agent_core.batches.formats import LineFormat
from agent_core.batches.records import Batch
from agent_core.engine.runs import Inbound, Run
from agent_core.errors import AgentError, InputError
from agent_core.messages import DataClass

CustomId = Annotated[str, Meta(min_length=1, max_length=512)]


class OpenAILine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of OpenAI's batch input."""

    custom_id: CustomId
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
    body: msgspec.Raw


class SampanLine(AgentRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of our own: what `POST /api/v1/agent` takes, and an id that its result bears."""

    id: CustomId | None = None


class _Name(msgspec.Struct, frozen=True):
    """What names a line, of one that may be wrong in all else."""

    custom_id: Any = None
    id: Any = None


_decode_name = msgspec.json.Decoder(_Name).decode


def _name(line: bytes) -> _Name:
    try:
        return _decode_name(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Name()


class OpenAIFormat:
    """OpenAI's batch lines. `model` of a body is an agent's name; any other name stands for the batch's agent."""

    name = "openai"

    def __init__(self, agents: Mapping[str, object], data_class: DataClass) -> None:
        self._agents = agents
        self._data_class = data_class

    def claims(self, line: bytes) -> bool:
        """See LineFormat."""
        return _name(line).custom_id is not None

    def read(self, batch: Batch, line: bytes) -> Inbound:
        """See LineFormat."""
        sent = decode(line, OpenAILine)
        asked = decode_chat(bytes(sent.body))
        if asked.stream:
            raise InputError("a batch's answers are whole: leave `stream` out", field="$.body.stream")
        inbound = chat_inbound(asked, self._data_class)
        known = asked.model in self._agents
        if not known and not batch.agent:
            raise InputError(
                f"there is no agent {asked.model[:128]!r}, and the batch names none", field="$.body.model"
            )
        return inbound if known else msgspec.structs.replace(inbound, agent=batch.agent)

    def result(self, number: int, line: bytes, run: Run) -> dict[str, Any]:
        """See LineFormat. `cost_usd` is ours."""
        problem = problems.of_run(run)
        if run.status == "succeeded":
            status, body = 200, msgspec.to_builtins(completion(run))
        elif problem is not None:
            status, body = problem.status, problems.openai_error(problem)
        else:
            return self._line(number, line, run.id, error=_error(run.status, "the run waits for a person"))
        response = {"status_code": status, "request_id": run.id, "body": body}
        cost = cost_view(run.cost, run.unpriced)
        return self._line(number, line, run.id, response=response) | {
            "cost_usd": cost.usd if cost.known else None
        }

    def refusal(self, number: int, line: bytes, error: AgentError) -> dict[str, Any]:
        """See LineFormat."""
        return self._line(number, line, f"line-{number}", error=_error(error.slug, error.detail))

    def _line(
        self,
        number: int,
        line: bytes,
        name: str,
        *,
        response: dict[str, Any] | None = None,
        error: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        return {
            "id": f"batch_req_{name}",
            "custom_id": _name(line).custom_id,
            "line": number,
            "response": response,
            "error": error,
        }


def _error(code: str, message: str) -> dict[str, str]:
    return {"code": code.replace("-", "_"), "message": message}


class SampanFormat:
    """The body of `POST /api/v1/agent`, and an `id`."""

    name = "sampan"

    def __init__(self, agents: Mapping[str, object], data_class: DataClass) -> None:
        self._agents = agents
        self._data_class = data_class

    def claims(self, line: bytes) -> bool:
        """See LineFormat."""
        return True

    def read(self, batch: Batch, line: bytes) -> Inbound:
        """See LineFormat."""
        asked = decode(line, SampanLine)
        if asked.stream:
            raise InputError("a batch's answers are whole: leave `stream` out", field="$.stream")
        if asked.callback:
            raise InputError("a batch's answers are in its results: leave `callback` out", field="$.callback")
        if asked.agent and asked.agent not in self._agents:
            known = ", ".join(sorted(self._agents))
            raise InputError(f"there is no agent {asked.agent!r}; there are: {known}", field="$.agent")
        return Inbound(
            messages=read_agent_messages(asked, asked.data_class or self._data_class),
            agent=asked.agent or "",
            session_id=asked.session_id or "",
            metadata=asked.metadata,
        )

    def result(self, number: int, line: bytes, run: Run) -> dict[str, Any]:
        """See LineFormat."""
        problem = problems.of_run(run)
        return {
            "line": number,
            "id": _name(line).id,
            "status": run.status,
            "run_id": run.id,
            "session_id": run.session_id,
            "reply": reply_view(run.reply) if run.reply else None,
            "finish": run.finish,
            "usage": run.usage,
            "cost": cost_view(run.cost, run.unpriced),
            "problem": problem,
        }

    def refusal(self, number: int, line: bytes, error: AgentError) -> dict[str, Any]:
        """See LineFormat."""
        problem = problems.of_error(error, f"line-{number}")
        return {"line": number, "id": _name(line).id, "status": "failed", "run_id": None, "problem": problem}


def line_formats(agents: Mapping[str, object], data_class: DataClass) -> dict[str, LineFormat]:
    """All formats by their names; the last one takes what no other claims."""
    formats: list[LineFormat] = [OpenAIFormat(agents, data_class), SampanFormat(agents, data_class)]
    return {format.name: format for format in formats}
