"""`sampan ask`: in this process, with a session, as JSON, and when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_core.api.views import RunView

pytestmark = pytest.mark.usefixtures("project")


def test_only_the_answer_goes_to_a_pipe(sampan: Any) -> None:
    assert sampan("ask", "hello") == (0, "You said: hello\n", "")


def test_a_question_may_come_by_standard_input(sampan: Any) -> None:
    assert sampan("ask", "-", stdin="from a pipe\n").out == "You said: from a pipe\n\n"


def test_json_is_the_run_as_the_api_shows_it(sampan: Any) -> None:
    done = sampan("ask", "--json", "hello")
    run = msgspec.json.decode(done.out, type=RunView)
    assert run.reply is not None
    assert (run.reply.text, run.status, run.channel) == ("You said: hello", "succeeded", "cli")
    assert run.usage.output > 0


def test_a_session_is_remembered_over_processes(sampan: Any) -> None:
    """The second command finds the first one's message in the store, not in memory."""
    first = json.loads(sampan("ask", "--json", "My name is Ada.").out)
    second = sampan("ask", "--session", first["session_id"], "What is my name?")
    assert second.out == "Your name is Ada.\n"
    assert sampan("ask", "What is my name?").out == "You have not told me.\n"


def test_state_is_where_data_says(sampan: Any, project: Path) -> None:
    sampan("ask", "--data", "elsewhere", "hello")
    assert list((project / "elsewhere").iterdir())
    assert not (project / ".sampan").exists()


def test_tools_are_used(sampan: Any) -> None:
    assert sampan("ask", "add 2 and 40").out == "The tool says 42.\n"


def test_a_run_that_fails_is_an_exit_code_and_a_line(sampan: Any) -> None:
    assert sampan("ask", "fail") == (1, "", "sampan: the model does not want to\n")


def test_a_failed_run_is_json_too(sampan: Any) -> None:
    done = sampan("ask", "--json", "fail")
    assert done.code == 1
    assert json.loads(done.out)["problem"]["type"] == "urn:sampan:problem:model-refused"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ask", "  "], 1, "there is no question"),
        (["ask"], 2, "Missing argument"),
        (["ask", "--agent", "nobody", "hello"], 1, "there is no agent 'nobody'; there are: assistant"),
        (["ask", "--agents", "nowhere", "hello"], 1, "sampan new"),
        (["ask", "--url", "http://127.0.0.1:9", "hello"], 1, "start one with `sampan run`"),
        (["ask", "--nonsense", "hello"], 2, "No such option"),
        (["asks"], 2, "No such command"),
    ],
)
def test_mistakes_are_told(sampan: Any, arguments: list[str], code: int, words: str) -> None:
    done = sampan(*arguments)
    assert done.code == code
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_wrong_variable_is_told_by_name(sampan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_PORT", "many")
    done = sampan("ask", "hello")
    assert done.code == 1
    assert "SAMPAN_PORT=many" in done.err


def test_debug_shows_the_traceback(sampan: Any) -> None:
    with pytest.raises(Exception, match="no agent"):
        sampan("--debug", "ask", "--agent", "nobody", "hello")


def test_something_unexpected_is_no_traceback_either(sampan: Any) -> None:
    """A type that no model can be told of fails somewhere deep in a library."""
    Path("agents/assistant.py").write_text(
        "from agent_core import Agent\nagent = Agent(name='a', output=object())", encoding="utf-8"
    )
    done = sampan("ask", "hello")
    assert done.code == 1
    assert done.err.startswith("sampan: ")
    assert "Traceback" not in done.err
