"""Schemathesis reads the OpenAPI document and looks for requests whose answers it does not allow."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from agent_core import Agent, App, Principal, Settings, build_app
from agent_core.api import openapi
from agent_core.api.idempotency import PATTERN
from agent_core.models.scripted import ScriptedModel

BOUNDS = settings(
    max_examples=30,
    stateful_step_count=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
KEY = "Idempotency-Key"


def made() -> App:
    """An app whose agent has enough to say, and which asks for a key. Nothing connects when it is made."""
    agent = Agent(name="assistant", model=ScriptedModel(["Fine."] * 50_000))
    return build_app(Settings(store="memory", auth="on"), agents=[agent])


def key_of(app: App) -> str:
    """A key that may do everything."""
    return asyncio.run(app.door.keys.create(principal=Principal(scopes=("admin",))))[1]


@schemathesis.serializer("application/jsonl", "application/x-ndjson")
def lines(context: Any, value: Any) -> bytes:
    """Lines as they are, where they are text; else one line of JSON."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


schema = schemathesis.openapi.from_dict(openapi.document())
service = made()
schema.app = service.asgi()
SHOWN = {"Authorization": f"Bearer {key_of(service)}"}
fresh = itertools.count()


def make_sense(case: schemathesis.Case) -> None:
    """Mend what is wrong with a request for a reason that no schema can tell."""
    if case.headers and re.fullmatch(PATTERN, str(case.headers.get(KEY, ""))):
        case.headers[KEY] = f"key-{next(fresh)}"  # two requests under one key
    if case.meta and case.meta.generation.mode.is_positive and isinstance(case.body, dict):
        case.body.pop("callback", None)  # an address that may be called; this service sends no callbacks
        choice = case.body.get("tool_choice")
        if isinstance(choice, dict):  # a tool chosen that is not there
            case.body["tools"] = [{"type": "function", "function": choice["function"]}]


@schema.parametrize()
@BOUNDS
def test_every_answer_is_one_that_the_document_allows(case: schemathesis.Case) -> None:
    """All checks: no server error; statuses, types, headers, bodies as declared; wrong input refused, right taken;
    nothing without a key.
    """
    make_sense(case)
    case.call_and_validate(headers=SHOWN)


class Workflow(schema.as_state_machine()):
    """Requests that follow from each other: a run or a session that an answer named is read, cancelled, erased."""

    def before_call(self, case: schemathesis.Case) -> None:
        make_sense(case)

    def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
        return {"headers": SHOWN}


# Alone, after all others: it draws from the constants of all modules that are loaded, so none may come meanwhile.
TestWorkflow = pytest.mark.measured(Workflow.TestCase)
TestWorkflow.settings = BOUNDS
