"""What the README shows is what happens: its commands are run as they stand there, and their output is compared.

A server with a scripted agent takes the place of the one on port 8000. The agent answers from the messages it is given
and from nothing else, so the second message of a session can only be answered where the first is in its history.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent_core import Agent
from agent_core.loader import load_agents
from agent_core.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "http://127.0.0.1:8000"
ANYTHING = "…"


class Block(NamedTuple):
    """A fenced block: its language and its text."""

    language: str
    text: str


def _blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def _examples(page: str) -> list[tuple[Block, Block]]:
    """Each block of commands that calls the server, with the block of output below it."""
    blocks = _blocks(page)
    return [
        (block, blocks[place + 1])
        for place, block in enumerate(blocks)
        if block.language == "sh" and "curl " in block.text
    ]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of its own for this module, its state from example to example as on a reader's machine."""
    command = [sys.executable, "-m", "agent_core.cli", "run", "--port", "0"]
    command += ["--agents", "tests/projects/history/agents", "--data", str(tmp_path_factory.mktemp("data"))]
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("SAMPAN_", "MODEL_"))
    }
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.match(r"Chat page +(\S+)/console/", line):
                yield found[1]
                break
        else:
            pytest.fail("the server did not start")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _matches(shown: Any, real: Any, place: str = "$") -> None:
    """Compare JSON: "…" stands for any text, the key "…" for further keys; of numbers, only that they are some."""
    if isinstance(shown, dict):
        assert isinstance(real, dict), place
        names = set(shown) - {ANYTHING}
        assert names <= set(real) if ANYTHING in shown else names == set(real), f"{place}: {sorted(real)}"
        for name in names:
            _matches(shown[name], real[name], f"{place}.{name}")
    elif isinstance(shown, list):
        assert isinstance(real, list), place
        assert len(shown) == len(real), place
        for number, (one, other) in enumerate(zip(shown, real, strict=True)):
            _matches(one, other, f"{place}[{number}]")
    elif isinstance(shown, str):
        assert re.fullmatch(_pattern(shown), real), f"{place}: {real!r}"
    elif isinstance(shown, bool) or shown is None or place.endswith(".status"):
        assert shown == real, place
    else:
        assert isinstance(real, int | float), place


def _pattern(shown: str) -> str:
    return ".*".join(re.escape(part) for part in shown.split(ANYTHING))


def _matches_lines(shown: str, real: str) -> None:
    """Compare lines: a line of "…" stands for any lines, within a line it stands for anything."""
    parts = [[]]  # type: list[list[str]]
    for line in shown.strip().splitlines():
        if line.strip() == ANYTHING:
            parts.append([])
        else:
            parts[-1].append(_pattern(line))
    pattern = r"\n(?:.*\n)*".join("\n".join(lines) for lines in parts)
    assert re.fullmatch(pattern, real.strip()), f"the README shows\n{shown}\nand what came is\n{real}"


def _run(commands: str, url: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands.replace(ADDRESS, url)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.replace("\r\n", "\n")


def test_there_are_examples_of_all_that_is_promised() -> None:
    """Sync, a session's second message, SSE, an idempotent retry, a changed body."""
    commands = [commands.text for commands, _ in _examples("README.md")]
    assert len(commands) == 5
    assert sum('"session_id": "trip"' in text for text in commands) == 3
    assert sum('"stream": true' in text for text in commands) == 1
    assert sum("Idempotency-Key: question-1" in text for text in commands) == 2


def test_curl_examples(url: str) -> None:
    """One after another, as a reader would: the later ones build on the earlier ones."""
    for commands, output in _examples("README.md"):
        real = _run(commands.text, url)
        if output.language == "json":
            _matches(json.loads(output.text), json.loads(real))
        else:
            _matches_lines(output.text, _one_object_a_line(real))


def _one_object_a_line(real: str) -> str:
    """curl ends no line after a JSON body; whoever reads a terminal sees where it ends."""
    return re.sub(r"\}(?=idempotency-replayed)", "}\n", real)


def test_the_stream_is_the_whole_answer(url: str) -> None:
    """The pieces of the README's streaming example, put together."""
    (commands,) = [
        commands.text for commands, _ in _examples("README.md") if '"stream": true' in commands.text
    ]
    frames = [
        dict(line.split(": ", 1) for line in frame.splitlines())
        for frame in _run(commands, url).split("\n\n")
        if frame
    ]
    pieces = [json.loads(frame["data"])["text"] for frame in frames if frame["event"] == "text"]
    assert len(pieces) > 1
    assert "".join(pieces) == json.loads(frames[-1]["data"])["reply"]["text"]
    assert [frames[0]["event"], frames[-1]["event"]] == ["run", "reply"]


def test_openai_example(url: str) -> None:
    (code,) = [block.text for block in _blocks("README.md") if "from openai" in block.text]
    done = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, url)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "The capital of France is Paris.\n", done.stderr


def test_the_first_agent_is_one(tmp_path: Path) -> None:
    """The file in the README loads, and its tool does what it says."""
    (code,) = [block.text for block in _blocks("README.md") if block.text.startswith("# agents/")]
    name = code.splitlines()[0].removeprefix("# agents/")
    (tmp_path / name).write_text(code, encoding="utf-8")
    (agent,) = load_agents(Settings(agents=str(tmp_path)))
    assert isinstance(agent, Agent)
    (tool,) = agent.tools
    assert tool.spec.schema["required"] == ["order_id"]
    assert tool("A-1") == "on its way, here tomorrow"


@pytest.mark.parametrize(
    "page", ["README.md", "README.zh-CN.md", "docs/quickstart.md", "docs/troubleshooting.md"]
)
def test_python_on_the_pages_compiles(page: str) -> None:
    for block in _blocks(page):
        if block.language == "python":
            ast.parse(block.text)


def test_both_languages_show_the_same() -> None:
    """The Chinese README is in step: the same code, commands and output, in the same order; the same headings."""
    english, chinese = _blocks("README.md"), _blocks("README.zh-CN.md")
    assert english == chinese
    headings = [
        re.findall(r"^#+", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        for page in ("README.md", "README.zh-CN.md")
    ]
    assert headings[0] == headings[1]
