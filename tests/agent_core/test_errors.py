"""The tree of errors that people read is the tree that is."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from agent_core import errors
from agent_core.errors import AgentError, ConditionError, InputError, LimitError, PluginError, RunningError

CLASSES = [
    error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, AgentError)
]
DETAILS: dict[type, dict[str, Any]] = {
    RunningError: {"run_id": "r"},
    LimitError: {"limit": "steps"},
    PluginError: {"plugin": "p"},
    errors.QuotaError: {"policy": "key", "retry_after": 1.0},
    errors.ScopeError: {"scope": "admin"},
    errors.StalledError: {"timeout": "total"},
    ConditionError: {"index": 0, "current": None},
}


def drawn() -> list[tuple[str, str]]:
    """(error, its parent) in the order of the docstring."""
    pairs: list[tuple[str, str]] = []
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([ |`-]*)([A-Z]\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            pairs.append((match[2], path[depth - 1] if depth else "Exception"))
    return pairs


def made(error: type[AgentError]) -> AgentError:
    return error("what happened", **DETAILS.get(error, {}))


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    pairs = drawn()
    assert len(pairs) == len(CLASSES)
    assert {(error.__name__, error.__base__.__name__) for error in CLASSES if error.__base__} == set(pairs)


def test_the_classes_stand_in_the_order_of_the_tree() -> None:
    assert [name for name, _ in drawn()] == [error.__name__ for error in CLASSES]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_says_what_an_answer_needs(error: type[AgentError]) -> None:
    assert error.__doc__
    assert error.__doc__.strip().splitlines()[0].endswith((".", ";"))
    assert 400 <= error.status < 600
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.slug)
    assert error.title
    assert not error.title.endswith(".")
    assert isinstance(error.retryable, bool)
    raised = made(error)
    assert str(raised) == raised.detail == "what happened"
    msgspec.json.encode(raised.extras())


def test_a_slug_means_one_status() -> None:
    meanings: dict[str, set[int]] = {}
    for error in CLASSES:
        meanings.setdefault(error.slug, set()).add(error.status)
    mixed = {slug for slug, statuses in meanings.items() if len(statuses) > 1}
    assert mixed <= {"upstream"}  # a gateway's own fault is 502, its lateness 504


def test_extras_tell_what_a_program_can_use() -> None:
    assert made(RunningError).extras() == {"run_id": "r"}
    assert made(LimitError).extras() == {"limit": "steps"}
    assert made(PluginError).extras() == {"plugin": "p"}
    assert InputError("x", field="$.message").extras() == {"field": "$.message"}
    assert InputError("x").extras() == {}
    assert AgentError("x").extras() == {}


def test_a_lost_condition_carries_what_stood_in_the_way() -> None:
    lost = ConditionError("x", index=3, current={"a": 1})
    assert (lost.index, lost.current) == (3, {"a": 1})
    assert lost.extras() == {}, "other people's records are no part of an answer"


def test_an_error_may_say_when_to_come_back() -> None:
    assert AgentError("x", retry_after=2.5).retry_after == 2.5
    assert made(RunningError).retry_after == 1.0
