"""ScriptedModel: the model's double for tests, demos and benchmarks. It says what its script says, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from agent_core.messages import Chunk, Finish, Message, Prompt, Reply, ToolCall, Usage

Line = Reply | str | Sequence[ToolCall] | ToolCall | Exception | Callable[[Prompt], Any]
"""What one call gives: a reply, its words, tool calls, an error to raise, or what a function of the prompt gives."""


class ScriptedModel:
    """Gives the lines of its script one by one and keeps every prompt in `prompts`.

    A call with no line left raises AssertionError; `assert_used_up()` raises it where lines are left over.
    Streams words in pieces of `piece` characters. Usage, where a line names none: a token per four characters.
    """

    def __init__(
        self,
        script: Iterable[Line] = (),
        *,
        name: str = "scripted:test",
        tools: bool = True,
        context_window: int = 128_000,
        piece: int = 8,
    ) -> None:
        self.name = name
        self.tools = tools
        self.context_window = context_window
        self.prompts: list[Prompt] = []
        self.closed = False
        self._script = list(script)
        self._piece = piece

    @property
    def left(self) -> int:
        """How many lines have not been said yet."""
        return len(self._script)

    def add(self, *lines: Line) -> None:
        """Lines after the ones that are left."""
        self._script += lines

    async def reply(self, prompt: Prompt) -> Reply:
        """The next line."""
        return self._next(prompt)

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        """The next line, in pieces."""
        reply = self._next(prompt)
        text = reply.message.text
        for start in range(0, len(text), self._piece):
            yield Chunk(text=text[start : start + self._piece])
        yield Chunk(reply=reply)

    async def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def assert_used_up(self) -> None:
        """Raise AssertionError where lines are left."""
        if self._script:
            raise AssertionError(f"{self.left} lines of the script were not used, next: {self._script[0]!r}")

    def _next(self, prompt: Prompt) -> Reply:
        self.prompts.append(prompt)
        if not self._script:
            last = prompt.messages[-1].text if prompt.messages else ""
            raise AssertionError(f"the script is used up; call {len(self.prompts)} came with {last[:200]!r}")
        return self._read(self._script.pop(0), prompt)

    def _read(self, line: Line, prompt: Prompt) -> Reply:
        finish: Finish = "stop"
        match line:
            case Reply():
                return line
            case Exception():
                raise line
            case str():
                message = Message.of("assistant", line)
            case ToolCall():
                return self._read([line], prompt)
            case _ if callable(line):
                return self._read(line(prompt), prompt)
            case _:
                message, finish = Message(role="assistant", tool_calls=tuple(line)), "tool_calls"
        written = sum(len(m.text) + sum(len(r.content) for r in m.tool_results) for m in prompt.messages)
        made = len(message.text) + sum(len(call.arguments) for call in message.tool_calls)
        usage = Usage(input=1 + (len(prompt.system) + written) // 4, output=1 + made // 4)
        return Reply(message=message, usage=usage, model=self.name, finish=finish)
