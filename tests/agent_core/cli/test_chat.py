"""`sampan chat`: lines in, answers out; by pipe, and on a real terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent_core.cli.live import finished_blocks

pytestmark = pytest.mark.usefixtures("project")


def test_a_conversation_by_pipe(sampan: Any) -> None:
    """One session for all lines; no prompt, no figures, nothing but answers and tool calls."""
    lines = "My name is Ada.\n\nWhat is my name?\nadd 1 and 2\n"
    done = sampan("chat", stdin=lines)
    assert done == (
        0,
        'You said: My name is Ada.\nYour name is Ada.\n→ add {"a": 1, "b": 2}\n← 3\nThe tool says 3.\n',
        "",
    )


def test_new_begins_a_new_session(sampan: Any) -> None:
    done = sampan("chat", stdin="My name is Ada.\n/new\nWhat is my name?\n")
    assert done.out.endswith("You have not told me.\n")


def test_quit_help_and_what_is_no_command(sampan: Any) -> None:
    done = sampan("chat", stdin="/help\n/nonsense\n/quit\nnever read\n")
    assert done.code == 0
    assert done.out.count("/new    begin a new session") == 2
    assert "There is no command /nonsense." in done.out
    assert "never read" not in done.out


def test_an_answer_that_fails_does_not_end_the_talk(sampan: Any) -> None:
    """The next line is answered; a program that sent the lines learns of it by the exit code."""
    done = sampan("chat", stdin="fail\nhello\n")
    assert done == (1, "You said: hello\n", "sampan: the model does not want to\n")


def test_a_session_can_be_gone_on_with(sampan: Any) -> None:
    sampan("chat", "--session", "mine", stdin="My name is Ada.\n")
    assert sampan("chat", "--session", "mine", stdin="What is my name?\n").out == "Your name is Ada.\n"


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("", ""),
        ("one line", ""),
        ("one\n\ntwo", "one\n\n"),
        ("one\n\ntwo\n\nthree", "one\n\ntwo\n\n"),
        ("```\ncode\n\nmore", ""),
        ("before\n\n```py\ncode\n\nmore\n```\n", "before\n\n"),
        ("```\ncode\n\nmore\n```\n\nafter", "```\ncode\n\nmore\n```\n\n"),
        ("~~~\n```\n\n~~~\n\nafter", "~~~\n```\n\n~~~\n\n"),
    ],
)
def test_only_finished_blocks_are_printed_for_good(text: str, done: str) -> None:
    assert finished_blocks(text) == (done, text[len(done) :])


# A session of its own with the pseudo-terminal as its controlling one, so that Ctrl-C is a signal.
TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as a shell does: a job in the background is born deaf to it
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "agent_core.cli", *sys.argv[1:]])
"""


class Terminal:
    """A command on a pseudo-terminal, as a person would have it before them."""

    def __init__(self, *arguments: str) -> None:
        self._own, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
        )
        os.close(other)
        self.seen = ""

    def expect(self, words: str, seconds: float = 30) -> str:
        """What came up to these words; fails where they do not come."""
        end = time.monotonic() + seconds
        while words not in self.seen:
            ready, _, _ = select.select([self._own], [], [], max(0, end - time.monotonic()))
            assert ready, f"{words!r} did not come; there was {self.seen!r}"
            self.seen += os.read(self._own, 65536).decode("utf-8", "replace")
        before, _, self.seen = self.seen.partition(words)
        return before

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._own, keys.encode())

    def press(self, key: str, words: str) -> str:
        """Press a key until these words come, as a person does: one pressed in the very moment in which the prompt
        appears, before the line is being edited, is not heard."""
        for _ in range(20):
            self.type(key)
            with contextlib.suppress(AssertionError):
                return self.expect(words, seconds=1)
        raise AssertionError(f"{words!r} did not come; there was {self.seen!r}")

    def end(self) -> int:
        """Wait for the exit code."""
        try:
            return self.process.wait(timeout=30)
        finally:
            os.close(self._own)

    def kill(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.mark.timeout(120)
def test_on_a_terminal(project: Path) -> None:
    """Prompt, streamed markdown, tool call, figures, Ctrl-C on an empty line, help, the end."""
    screen = Terminal("chat")
    try:
        screen.expect("Talking to assistant (scripted:test). /help lists the commands.")
        screen.expect("> ")
        screen.type("say **bold**\n")
        screen.expect("\x1b[1mbold\x1b[0m")  # markdown, drawn as such
        screen.expect("total")
        screen.expect("> ")
        screen.type("add 20 and 22\n")
        screen.expect("→ add")
        screen.expect("The tool says 42.")
        screen.expect("> ")
        screen.press("\x03", "/quit leaves.")
        screen.expect("> ")
        screen.type("/help\n")  # its answer tells that lines are being read
        screen.expect("Ctrl-C  stop")
        screen.expect("> ")
        screen.type("/quit\n")
        assert screen.end() == 0
    finally:
        screen.kill()


@pytest.mark.timeout(120)
def test_ctrl_c_stops_an_answer_and_not_the_talk(project: Path) -> None:
    """And leaving does not wait for an agent that never comes to an end."""
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
    screen = Terminal("chat", "--agent", "endless")
    try:
        screen.expect("Talking to endless.")
        screen.expect("> ")
        screen.type("go on\n")
        screen.expect("I begin")
        screen.type("\x03")
        screen.expect("Stopped.")
        screen.expect("> ")
        screen.type("/quit\n")
        screen.expect("An answer was not finished. Its message is kept in the store.")
        assert screen.end() == 0
    finally:
        screen.kill()
