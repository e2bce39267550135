"""`sampan doctor`: finds what is wrong, says how to mend it, goes on past it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("project")


def _findings(sampan: Any, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = sampan("doctor", "--json", "--port", "0", *arguments)
    report = json.loads(done.out)
    assert report["ok"] is (done.code == 0)
    return done.code, {finding["about"]: finding for finding in report["findings"]}


def test_all_is_well(sampan: Any) -> None:
    done = sampan("doctor", "--port", "0")
    assert done.code == 0, done.out
    assert done.out.endswith("All is well.\n")
    assert "ok       agent assistant: tools: add\n" in done.out
    assert "ok       model scripted:test: answered 'You said: Say hello.' in " in done.out
    assert "ok       store sqlite: written and read in .sampan\n" in done.out


def test_offline_calls_no_model(sampan: Any, project: Path) -> None:
    """The only line of this model's script must still be there."""
    (project / "agents" / "assistant.py").write_text(
        "from agent_core import Agent\nfrom agent_core.models.scripted import ScriptedModel\n"
        "agent = Agent(name='assistant', model=ScriptedModel([]))",
        encoding="utf-8",
    )
    code, found = _findings(sampan, "--offline")
    assert code == 0
    assert found["model scripted:test"]["detail"] == "set up; not called"


def test_an_agent_that_does_not_load(sampan: Any, project: Path) -> None:
    (project / "agents" / "bad.py").write_text("\nx = 1 / 0\n", encoding="utf-8")
    code, found = _findings(sampan)
    assert code == 1
    assert found["agents"]["detail"].startswith("agents/bad.py, line 2: ZeroDivisionError")
    assert found["store sqlite"]["status"] == "ok"


def test_each_agent_is_looked_at_by_itself(sampan: Any, project: Path) -> None:
    (project / "agents" / "more.py").write_text(
        """
from agent_core import Agent, tool
from agent_core.models.scripted import ScriptedModel

@tool
def silent(a: int):
    return a

class Strange:
    pass

@tool
def impossible(a: Strange) -> int:
    "Can't be told to a model."
    return 1

dumb = Agent(name="dumb", model=ScriptedModel(["hi"]), tools=[silent])
odd = Agent(name="odd", model=ScriptedModel(["hi"]), tools=[impossible])
far = Agent(name="far", model="nobody:nothing")
""",
        encoding="utf-8",
    )
    code, found = _findings(sampan, "--offline")
    assert code == 1
    assert found["agent assistant"]["status"] == "ok"
    assert found["agent dumb"]["status"] == "missing"
    assert "docstring" in found["agent dumb"]["mend"]
    assert "impossible" in found["agent odd"]["detail"]
    assert "nobody" in found["agent far"]["detail"]


def test_an_endpoint_that_is_not_there(sampan: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "agents" / "assistant.py").write_text(
        "from agent_core import Agent\nagent = Agent(name='assistant')", encoding="utf-8"
    )
    monkeypatch.setenv("MODEL_ENDPOINT", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("MODEL_NAME", "some-model")
    monkeypatch.setenv("MODEL_API_KEY", "sk-never-shown")
    code, found = _findings(sampan)
    assert code == 1
    assert found["model openai:some-model"]["status"] == "wrong"
    assert "MODEL_ENDPOINT" in found["model openai:some-model"]["mend"]
    assert "sk-never-shown" not in json.dumps(found)
    assert "MODEL_API_KEY=***" in found["settings"]["detail"]


def test_a_store_that_cant_be_written(sampan: Any, project: Path) -> None:
    (project / "file").write_text("", encoding="utf-8")
    code, found = _findings(sampan, "--data", "file/inside")
    assert code == 1
    assert "--data" in found["store sqlite"]["mend"]


def test_a_port_that_is_taken(sampan: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        other.close()
    done = sampan("doctor", "--offline", "--port", port)
    assert done.code == 0
    with socket.create_server(("127.0.0.1", int(port))):
        done = sampan("doctor", "--offline", "--port", port, "--host", "127.0.0.1")
    assert done.code == 1
    assert f"WRONG    port {port}: port {port} is taken" in done.out


def test_a_default_agent_that_is_not_there(sampan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_DEFAULT_AGENT", "nobody")
    code, found = _findings(sampan)
    assert code == 0
    assert found["default agent"]["mend"] == "set SAMPAN_DEFAULT_AGENT=assistant"
