"""`sampan run`: a real server in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest


def _ask(url: str, text: str, **fields: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/api/v1/agent", json={"message": text, **fields}, timeout=30, trust_env=False)
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(serve: Any, project: Path, number: int) -> None:
    served = serve(project)
    assert "Sampan 0.1.0 · assistant (scripted:test)" in served.said
    assert httpx.get(f"{served.url}/readyz", trust_env=False).json() == {"status": "ok"}
    assert _ask(served.url, "hello")["reply"]["text"] == "You said: hello"
    assert "<html" in httpx.get(f"{served.url}/console/", trust_env=False, follow_redirects=True).text
    assert served.end(number) == 0
    assert '"POST /api/v1/agent HTTP/1.1" 200' in served.said
    assert "Traceback" not in served.said


def test_the_line_it_prints_for_curl_works(serve: Any, project: Path) -> None:
    """A person copies it into a shell; it asks the demo's question."""
    served = serve(project, "--ask", 'it\'s "quoted" & more')
    served.until("Stop")
    (line,) = [line for line in served.said.splitlines() if line.startswith("API ")]
    done = subprocess.run(
        ["bash", "-c", line.removeprefix("API").strip()], capture_output=True, text=True, timeout=30
    )
    assert '"text":"You said: it\'s \\"quoted\\" & more"' in done.stdout, done


def test_a_first_question_is_asked_over_http(serve: Any, project: Path) -> None:
    served = serve(project, "--demo")
    assert "> What is the capital of France?\n\nThe capital of France is Paris.\n\n" in served.said
    assert "scripted:test · " in served.said
    assert " tokens in, " in served.said
    assert "first byte " in served.said
    assert httpx.get(f"{served.url}/api/v1/runs", trust_env=False).json()["runs"][0]["channel"] == "api"


def test_once_ends_with_the_answer(project: Path) -> None:
    done = _run(project, "--ask", "add 2 and 3", "--once")
    assert done.returncode == 0, done
    assert '→ add {"a": 2, "b": 3}\n← 5\nThe tool says 5.\n' in done.stdout
    assert "Chat page" not in done.stdout


def test_once_fails_with_the_answer(project: Path) -> None:
    done = _run(project, "--ask", "fail", "--once")
    assert done.returncode == 1
    assert "sampan: the model does not want to" in done.stderr


def test_a_failed_first_question_does_not_end_the_server(serve: Any, project: Path) -> None:
    served = serve(project, "--ask", "fail")
    assert "the model does not want to" in served.said
    assert _ask(served.url, "hello")["status"] == "succeeded"


def _run(project: Path, *arguments: str, **environ: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "agent_core.cli", "run", "--port", "0", *arguments],
        cwd=project,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_port_that_is_taken_says_what_to_do(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = _run(project, "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr
    assert f"--port {port + 1}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--agents", "nowhere"], "sampan new"),
        (["--host", "256.0.0.1"], "can't be resolved"),
        (["--once"], "--once stops when a message was answered"),
        (["--once", "--demo", "--reload"], "don't go together"),
        (["--port", "123456"], "SAMPAN_PORT=123456"),
    ],
)
def test_what_cant_be_served_says_what_to_do(project: Path, arguments: list[str], words: str) -> None:
    done = _run(project, *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_outside_of_a_project(project: Path) -> None:
    (project / "events" / "api.hello.json").unlink()
    done = _run(project, "--demo")
    assert done.returncode == 1
    assert "events/api.hello.json is not here" in done.stderr


def test_what_was_said_survives_a_kill(serve: Any, project: Path) -> None:
    """kill -9 between two requests loses nothing."""
    first = serve(project)
    _ask(first.url, "My name is Ada.", session_id="s")
    first.process.kill()
    second = serve(project)
    assert _ask(second.url, "What is my name?", session_id="s")["reply"]["text"] == "Your name is Ada."


def test_a_request_under_way_is_answered_before_the_end(serve: Any, project: Path) -> None:
    """A signal that comes in the middle of an answer does not cut it."""
    (project / "agents" / "slow.py").write_text(
        """
import asyncio
from agent_core import Chunk, Message, Reply

class Slow:
    name = "slow"
    async def respond(self, messages, turn):
        yield Chunk(text="I begin")
        await asyncio.sleep(1)
        yield Chunk(reply=Reply(message=Message.of("assistant", "I begin and end")))

agent = Slow()
""",
        encoding="utf-8",
    )
    served = serve(project)
    body = {"message": "go", "agent": "slow", "stream": True}
    with httpx.stream("POST", f"{served.url}/api/v1/agent", json=body, timeout=30, trust_env=False) as answer:
        seen = ""
        for text in answer.iter_text():
            if "I begin" not in seen and "I begin" in seen + text:
                served.process.send_signal(signal.SIGTERM)
            seen += text
    assert "event: reply" in seen
    assert "I begin and end" in seen
    assert served.wait() == 0


def test_a_second_ctrl_c_does_not_wait(serve: Any, project: Path) -> None:
    """An agent that never comes to an end can't hold the server."""
    (project / "agents" / "endless.py").write_text(
        """
import asyncio
from agent_core import Chunk

class Endless:
    name = "endless"
    async def respond(self, messages, turn):
        yield Chunk(text="I begin")
        await asyncio.Event().wait()

agent = Endless()
""",
        encoding="utf-8",
    )
    served = serve(project)
    body = {"message": "go", "agent": "endless", "stream": True}
    with httpx.stream("POST", f"{served.url}/api/v1/agent", json=body, timeout=30, trust_env=False) as answer:
        for text in answer.iter_text():
            if "I begin" in text:
                break
        served.process.send_signal(signal.SIGINT)
        again = threading.Timer(0.5, served.process.send_signal, [signal.SIGINT])
        again.start()
        assert served.wait(seconds=8) == 0
    assert "Its message is kept in the store." in served.said


def test_reload_takes_up_a_change_and_survives_a_mistake(serve: Any, project: Path) -> None:
    served = serve(project, "--reload")
    file = project / "agents" / "assistant.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text + "\nx = 1 / 0\n", encoding="utf-8")
    served.until("ZeroDivisionError")
    file.write_text(text.replace("You said", "You now said"), encoding="utf-8")
    served.until("Chat page")
    assert _ask(served.url, "hello")["reply"]["text"] == "You now said: hello"
    assert served.end() == 0


def test_the_server_is_talked_to_by_the_other_commands(serve: Any, project: Path, sampan: Any) -> None:
    url = serve(project).url
    assert (
        sampan("ask", "--url", url, "--session", "s", "My name is Ada.").out == "You said: My name is Ada.\n"
    )
    assert sampan("chat", "--url", url, "--session", "s", stdin="What is my name?\nadd 1 and 1\n").out == (
        'Your name is Ada.\n→ add {"a": 1, "b": 1}\n← 2\nThe tool says 2.\n'
    )
    assert sampan("ask", "--url", url, "fail") == (1, "", "sampan: the model does not want to\n")
    assert sampan("ask", "--url", url, "--agent", "nobody", "hello").err.startswith(
        "sampan: there is no agent"
    )
    assert [line.split("\t")[0] for line in sampan("sessions", "list", "--url", url).out.splitlines()][
        -1
    ] == "s"
    assert len(sampan("runs", "list", "--url", url).out.splitlines()) == 4
    assert sampan("sessions", "erase", "s", "--yes", "--url", url).code == 0
    port = url.rsplit(":", 1)[1]
    assert f"ok       port {port}: a Sampan server is running there" in sampan("doctor", "--port", port).out
