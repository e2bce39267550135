"""Berkeley Function Calling Leaderboard: its functions build valid schemas, and its right answers pass as calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agent_core.blobs.memory import MemoryBlobs
from agent_core.messages import ToolCall, Turn
from agent_core.testing import ManualClock
from agent_core.tools.base import Tool
from agent_core.tools.toolbox import Toolbox

# BFCL speaks Python's type names. An "any" says nothing; a tuple is an array in JSON.
TYPES = {"dict": "object", "float": "number", "tuple": "array"}

OMITTED = object()

# Answers that go against their own function's schema, by id, with the argument at fault. The test proves each: an
# independent validator refuses it for the same argument. Other acceptable forms of the same answers still pass.
CONTRADICTIONS = {
    "simple_python_17": {"formatted"},  # required, and may be omitted
    "simple_python_149": {"company_names"},  # strings, and lists of one string
    "simple_python_200": {"fuel_efficiency"},  # required, and may be omitted
    "simple_python_307": {"venue"},  # a string, and true
    "simple_python_358": {"diet"},  # an enum, and two values outside of it
    "multiple_76": {"material"},  # an enum, and a value of other case
}
EXPECTED = {  # rows, functions, calls that pass, calls that contradict their schema
    "simple_python": (400, 400, 744, 7),
    "multiple": (200, 557, 433, 1),
}


def translated(schema: dict[str, Any]) -> dict[str, Any]:
    """BFCL's schema in the terms of JSON schema."""
    made = dict(schema)
    kind = made.pop("type", "any")
    made.pop("optional", None)  # says of an argument what `required` says of all
    if kind != "any":
        made["type"] = TYPES.get(kind, kind)
    if "properties" in made:
        made["properties"] = {name: translated(part) for name, part in made["properties"].items()}
    if "items" in made:
        made["items"] = translated(made["items"])
    return made


def name_of(function: dict[str, Any]) -> str:
    """Models' APIs take no dots in names; BFCL's own runners replace them in the same way."""
    return function["name"].replace(".", "_")


def forms(value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    """The values that one acceptable value stands for: within objects each field has a list of its own."""
    if isinstance(value, dict) and schema.get("type") == "object":
        yield from calls(value, schema.get("properties", {}))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [list(forms(item, schema.get("items", {}))) for item in value]
        for index in range(max(map(len, items))):
            yield [choices[min(index, len(choices) - 1)] for choices in items]
    else:
        yield value


def calls(answer: dict[str, list[Any]], properties: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Arguments such that each acceptable value of each argument is used at least once."""
    choices: dict[str, list[Any]] = {}
    for name, values in answer.items():
        schema = properties.get(name, {})
        choices[name] = [
            form for value in values for form in ([OMITTED] if value == "" else forms(value, schema))
        ]
    for index in range(max(map(len, choices.values()), default=1)):
        picked = {name: values[min(index, len(values) - 1)] for name, values in choices.items()}
        yield {name: value for name, value in picked.items() if value is not OMITTED}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def at_fault(schema: dict[str, Any], given: dict[str, Any]) -> set[str]:
    """The arguments that jsonschema, a validator not ours, finds wrong."""
    return {
        str(error.path[0]) if error.path else error.message.split("'")[1]
        for error in Draft202012Validator(schema).iter_errors(given)
    }


@pytest.mark.parametrize("name", EXPECTED)
async def test_right_answers_pass(shared_data: Path, name: str) -> None:
    """Every function is a tool with a valid schema, and every acceptable answer is checked and dispatched."""
    questions = lines(shared_data / "bfcl" / f"BFCL_v4_{name}.json")
    answers = lines(shared_data / "bfcl" / "possible_answer" / f"BFCL_v4_{name}.json")
    functions = passed = refused = 0
    contradictions: dict[str, set[str]] = {}
    for question, answer in zip(questions, answers, strict=True):
        assert question["id"] == answer["id"]
        seen: list[dict[str, Any]] = []
        tools = {name_of(one): made(one, seen) for one in question["function"]}
        functions += len(tools)
        box = Toolbox(
            list(tools.values()),
            blobs=MemoryBlobs(),
            clock=ManualClock(),
            timeout_seconds=5,
            result_bytes=1000,
        )
        ((called, arguments),) = answer["ground_truth"][0].items()
        tool = tools[called.replace(".", "_")]
        before = passed
        for given in calls(arguments, tool.schema["properties"]):
            call = ToolCall(id="1", name=tool.name, arguments=json.dumps(given))
            result = await box.call(call, Turn(session_id="s", run_id="r", agent="a"))
            wrong = at_fault(tool.schema, given)
            assert result.error == bool(wrong), (question["id"], given, result.content)
            if wrong:
                refused += 1
                contradictions.setdefault(question["id"], set()).update(wrong)
                assert all(f"- {argument}" in result.content for argument in wrong)
            else:
                passed += 1
                assert result.content == "ok"
                assert seen.pop() == given
        assert passed > before, f"{question['id']}: no acceptable answer passes"
    print(
        f"BFCL {name}: {len(questions)} rows, {functions} functions, {passed} calls pass, {refused} contradict"
    )
    assert (len(questions), functions, passed, refused) == EXPECTED[name]
    assert contradictions == {case: what for case, what in CONTRADICTIONS.items() if case.startswith(name)}


def made(function: dict[str, Any], seen: list[dict[str, Any]]) -> Tool:
    """A tool of BFCL's function that notes its arguments."""

    async def note(**arguments: Any) -> str:
        seen.append(arguments)
        return "ok"

    schema = translated(function["parameters"])
    Draft202012Validator.check_schema(schema)
    tool = Tool.from_schema(name_of(function), function["description"], schema, note)
    tool.check()
    return tool
