"""Schemas of plain types, made by hand, are those of pydantic, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, datetime
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core.tools import plain
from agent_core.tools.arguments import ArgumentsError
from agent_core.tools.base import tool
from agent_core.tools.schema import TypedArguments
from agent_core.tools.signature import MISSING, Argument, Signature
from tests.agent_core.tools.samples import SAMPLES

SIMPLE: st.SearchStrategy[Any] = st.sampled_from([str, int, float, bool, date, datetime])
KINDS: st.SearchStrategy[Any] = st.recursive(
    SIMPLE, lambda inner: st.one_of(inner.map(lambda kind: list[kind]), inner.map(lambda kind: kind | None))
)
ANNOTATIONS = st.one_of(KINDS, KINDS.map(lambda kind: Annotated[kind, "in these words"]))
DEFAULTS = st.one_of(
    st.just(MISSING), st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(), st.text(max_size=5)
)
NAMES = st.sampled_from(["city", "limit", "title", "schema", "model_config", "copy", "a0", "json"])
ARGUMENTS = st.lists(
    st.builds(Argument, NAMES, ANNOTATIONS, DEFAULTS, st.sampled_from(["", "Where it is."])),
    max_size=4,
    unique_by=lambda argument: argument.name,
)


def same(signature: Signature) -> bool:
    """Whether the schema was made by hand; fails where it is not that of pydantic."""
    made = plain.schema_of(signature)
    if made is None:
        return False
    assert json.dumps(made) == json.dumps(TypedArguments("sample", signature).schema)
    return True


@settings(max_examples=150, deadline=None)
@given(ARGUMENTS)
def test_a_schema_is_that_of_pydantic(arguments: list[Argument]) -> None:
    defaults = [argument.default for argument in arguments]
    finite = all(
        default == default and abs(default) != float("inf") for default in defaults if type(default) is float
    )
    assert same(Signature(tuple(arguments), "", "")) == finite


def test_schemas_of_all_samples_are_those_of_pydantic() -> None:
    made = [name for name, sample in SAMPLES.items() if same(sample.signature)]
    assert 0 < len(made) < len(SAMPLES)


def test_what_a_model_gives_is_read_as_ever() -> None:
    @tool
    def stay(city: str, start: date, nights: int = 1) -> str:
        """Book."""
        return city

    assert isinstance(stay.arguments, plain.PlainArguments)
    assert stay.arguments.read({"city": "Bern", "start": "2026-01-02", "nights": "3"}) == {
        "city": "Bern",
        "start": date(2026, 1, 2),
        "nights": 3,
    }
    with pytest.raises(ArgumentsError, match="nights: "):
        stay.arguments.read({"city": "Bern", "start": "2026-01-02", "nights": "many"})


def test_what_a_model_is_told_of_the_first_agent_loads_no_pydantic() -> None:
    code = """
import sys
from agents.assistant import agent
assert [tool.spec.name for tool in agent.tools] == ["current_time", "calculate", "days_between"]
assert "pydantic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
