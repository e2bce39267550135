"""The chain of plugins: order, what hooks may be and give back, and what happens when one fails."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from typing import Any

import msgspec
import pytest

from agent_core.errors import ConfigError, PluginError
from agent_core.messages import Message, Text, ToolCall, ToolResult, Turn
from agent_core.plugins.base import Stop
from agent_core.plugins.chain import PluginChain
from agent_core.testing import ManualClock

TURN = Turn(session_id="s", run_id="r1", agent="a")
HELLO = Message.of("user", "hello")


def chain_of(*plugins: object, clock: Any = None) -> PluginChain:
    return PluginChain(plugins, timeout_seconds=5, clock=clock)


def said(message: Message, words: str) -> Message:
    return msgspec.structs.replace(message, parts=(Text(message.text + words),))


class Both:
    """Adds its mark to whatever passes."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def process(self, message: Message) -> Message:
        return said(message, self.mark)

    def on_reply(self, message: Message) -> Message:
        return said(message, self.mark)

    def before_tool(self, call: ToolCall) -> ToolCall:
        return msgspec.structs.replace(call, arguments=call.arguments + self.mark)

    def after_tool(self, result: ToolResult) -> ToolResult:
        return msgspec.structs.replace(result, content=result.content + self.mark)


async def test_in_first_to_last_out_last_to_first() -> None:
    """The first plugin is the outermost, around messages and around tools."""
    chain = chain_of(Both("1"), Both("2"), Both("3"))
    assert (await chain.process(Message.of("user", ""), TURN)).text == "123"
    assert (await chain.on_reply(Message.of("assistant", ""), TURN)).text == "321"
    assert (await chain.before_tool(ToolCall(id="c", name="t", arguments=""), TURN)).arguments == "123"
    assert (await chain.after_tool(ToolResult(call_id="c", name="t", content=""), TURN)).content == "321"


async def test_a_chain_without_plugins_gives_back_the_same_object() -> None:
    chain = chain_of()
    assert await chain.process(HELLO, TURN) is HELLO
    assert not chain.changes_replies
    assert not chain.reads_messages


async def test_every_form_of_a_hook() -> None:
    """Sync or async, with the turn or without, a function of the object or of its class, inline or in a thread."""
    where = []

    def note(form: str) -> None:
        where.append((form, threading.current_thread() is threading.main_thread()))

    class Plain:
        def process(self, message: Message) -> Message:
            note("plain")
            return message

    class WithTurn:
        def process(self, message: Message, turn: Turn) -> Message:
            note(f"turn {turn.run_id}")
            return message

    class Later:
        async def process(self, message: Message, *, turn: Turn | None = None) -> Message:
            note("async")
            return message

    class Named:
        def process(self, m: Message, context: Turn) -> None:
            note(f"named {context.run_id}")

    class Static:
        @staticmethod
        def process(message: Message) -> None:
            note("static")

    class Inline:
        inline = True

        def process(self, message: Message) -> None:
            note("inline")

    class Any_:
        def process(self, *args: Any) -> None:
            note(f"{len(args)} arguments")

    await chain_of(Plain(), WithTurn(), Later(), Named(), Static(), Inline(), Any_()).process(HELLO, TURN)
    assert where == [
        ("plain", False),
        ("turn r1", False),
        ("async", True),
        ("named r1", False),
        ("static", False),
        ("inline", True),
        ("2 arguments", False),
    ]


async def test_none_means_unchanged() -> None:
    class Looks:
        def process(self, message: Message) -> None: ...

    assert await chain_of(Looks()).process(HELLO, TURN) is HELLO


@pytest.mark.parametrize("reply", ["no", Message.of("assistant", "no")])
@pytest.mark.parametrize("inline", [True, False])
async def test_stop_ends_the_chain_with_its_reply(reply: Any, inline: bool) -> None:
    class Stops:
        def process(self, message: Message) -> Message:
            raise Stop(reply)

    class Never:
        def process(self, message: Message) -> Message:
            raise AssertionError("the chain went on")

    plugin = Stops()
    plugin.inline = inline  # type: ignore[attr-defined]
    with pytest.raises(Stop) as caught:
        await chain_of(plugin, Never()).process(HELLO, TURN)
    assert caught.value.reply == reply


async def test_stop_in_another_hook_is_a_fault() -> None:
    class Stops:
        def on_reply(self, message: Message) -> Message:
            raise Stop("no")

    with pytest.raises(PluginError, match="on_reply raised Stop, which belongs into process"):
        await chain_of(Stops()).on_reply(HELLO, TURN)


async def test_stop_with_nonsense_is_a_fault() -> None:
    class Stops:
        def process(self, message: Message) -> Message:
            raise Stop(3)  # type: ignore[arg-type]

    with pytest.raises(PluginError, match="stopped with int"):
        await chain_of(Stops()).process(HELLO, TURN)


@pytest.mark.parametrize(
    "error", [ValueError("card 4111"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()]
)
@pytest.mark.parametrize("hook", ["process", "on_reply", "before_tool", "after_tool"])
@pytest.mark.parametrize("kind", ["thread", "async", "inline"])
async def test_a_plugin_that_raises_is_named(error: BaseException, hook: str, kind: str) -> None:
    """The caller learns which plugin and which error, but never its words, which may quote the message."""

    def fail(value: Any) -> Any:
        raise error

    async def fail_later(value: Any) -> Any:
        raise error

    class Broken:
        name = "my-plugin"
        inline = kind == "inline"

    setattr(Broken, hook, staticmethod(fail_later if kind == "async" else fail))
    with pytest.raises(PluginError) as caught:
        await getattr(chain_of(Broken()), hook)(_value(hook), TURN)
    assert caught.value.plugin == "my-plugin"
    assert caught.value.detail == f"the plugin my-plugin failed: {hook} " + (
        "raised ValueError" if isinstance(error, ValueError) else f"it raised {type(error).__name__}"
    )
    assert "4111" not in caught.value.detail


def _value(hook: str) -> Any:
    return {
        "before_tool": ToolCall(id="c", name="t"),
        "after_tool": ToolResult(call_id="c", name="t", content=""),
    }.get(hook, HELLO)


class Fails:
    def process(self, message: Message) -> Message:
        raise ValueError("secret words")


@pytest.mark.parametrize(("data_class", "shown"), [("internal", True), ("confidential", False)])
async def test_the_log_tells_the_developer_as_much_as_it_may(
    caplog: pytest.LogCaptureFixture, data_class: Any, shown: bool
) -> None:
    with pytest.raises(PluginError):
        await chain_of(Fails()).process(HELLO, msgspec.structs.replace(TURN, data_class=data_class))
    assert "run=<r1>, plugin=<Fails>, hook=<process>, error=<ValueError>" in caplog.text
    assert ("secret words" in caplog.text) == shown


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_plugin_that_hangs_is_given_up(asynchronous: bool) -> None:
    clock, begun, release = ManualClock(), threading.Event(), threading.Event()

    class Hangs:
        def process(self, message: Message) -> None:
            begun.set()
            release.wait(30)

    class HangsLater:
        async def process(self, message: Message) -> None:
            begun.set()
            await asyncio.Event().wait()

    plugin = HangsLater() if asynchronous else Hangs()
    waiting = asyncio.ensure_future(chain_of(plugin, clock=clock).process(HELLO, TURN))
    await asyncio.to_thread(begun.wait, 10)
    clock.advance(5)
    with pytest.raises(PluginError, match=f"{type(plugin).__name__} failed: process took longer than 5 s"):
        await waiting
    release.set()


@pytest.mark.parametrize("given", ["words", 3, ToolCall(id="c", name="t"), {}])
async def test_the_wrong_thing_given_back_is_a_fault(given: Any) -> None:
    class Wrong:
        def process(self, message: Message) -> Any:
            return given

    with pytest.raises(PluginError, match=f"process gave back {type(given).__name__}, not Message or None"):
        await chain_of(Wrong()).process(HELLO, TURN)


async def test_hooks_see_context_variables() -> None:
    seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="")

    class Looks:
        def process(self, message: Message) -> Message:
            return said(message, seen.get())

    seen.set("!")
    assert (await chain_of(Looks()).process(HELLO, TURN)).text == "hello!"


class Observer:
    observes = True

    def on_reply(self, message: Message) -> None: ...


@pytest.mark.parametrize(
    ("plugins", "changes"),
    [([], False), ([Fails()], False), ([Observer()], False), ([Observer(), Both("")], True)],
)
def test_whether_replies_may_stream(plugins: list[object], changes: bool) -> None:
    """Text that a plugin may still change is not shown before its end."""
    assert chain_of(*plugins).changes_replies == changes


class Typo:
    def proces(self, message: Message) -> Message:
        return message


class NoArguments:
    def process(self) -> None: ...


class NotCallable:
    process = "words"


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (Typo(), "is no plugin: it has none of process, on_reply, before_tool, after_tool"),
        (Both, r"plugin Both is a class: give an object of it, Both\(\)"),
        (NoArguments(), r"write `def process\(self, message\)` or `\(self, message, turn\)`"),
        (NotCallable(), "process is not a function"),
        ("redact", "is no plugin"),
    ],
)
def test_what_is_no_plugin_fails_when_the_chain_is_made(plugin: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chain_of(plugin)


async def test_expected_ends_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Stops:
        def process(self, message: Message) -> Message:
            raise Stop("no")

    caplog.set_level(logging.DEBUG)
    with pytest.raises(Stop):
        await chain_of(Stops()).process(HELLO, TURN)
    assert not [record for record in caplog.records if record.name.startswith("sampan")]
