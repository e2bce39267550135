"""A long session is summarised; the transcript stays whole."""

from __future__ import annotations

from agent_core import Agent, Compaction, Message, Principal, Reply, ToolCall, Usage, tool
from agent_core.engine.runs import Inbound
from agent_core.testing import ScriptedModel, test_app

ME = Principal()
LONG = "x" * 400  # about a hundred tokens


def said(text: str, **metadata: str) -> Inbound:
    return Inbound(messages=(Message.of("user", text, metadata=metadata),), session_id="s")


async def test_old_messages_become_a_summary_and_the_transcript_stays_whole() -> None:
    model = ScriptedModel([f"a{n} {LONG}" for n in range(6)])
    summarizer = ScriptedModel(["They spoke of numbers."], name="scripted:summary")
    app = test_app(
        Agent(name="assistant", model=model, compaction=Compaction(at_tokens=700, keep=4, model=summarizer))
    )
    for n in range(6):
        await app.engine.answer(said(f"q{n} {LONG}", **({"pinned": "yes"} if n == 0 else {})))
    summarizer.assert_used_up()
    assert "q0" in summarizer.prompts[0].messages[0].text
    last = model.prompts[-1].messages
    assert "They spoke of numbers." in last[0].text
    assert f"Pinned: q0 {LONG}" in last[0].text
    assert [m.text[:2] for m in last[1:]] == ["q2", "a2", "q3", "a3", "q4", "a4", "q5"]
    page = await app.engine.session(ME, "s")
    assert [m.text[:2] for m in page.messages] == [f"{who}{n}" for n in range(6) for who in "qa"]
    run = (await app.engine.runs(ME))[0]
    assert "scripted:summary" in {
        step.name for r in await app.engine.runs(ME) for step in await app.engine.steps(ME, r.id)
    }
    assert run.status == "succeeded"


async def test_a_tools_call_and_its_result_stay_together() -> None:
    @tool
    def look() -> str:
        """Look."""
        return LONG

    calls = Reply(
        message=Message(role="assistant", tool_calls=(ToolCall("c", "look"),)),
        finish="tool_calls",
        usage=Usage(),
    )
    model = ScriptedModel([calls, "seen", calls, "seen again", "end"])
    summarizer = ScriptedModel(["Looked."] * 3)
    app = test_app(
        Agent(
            name="assistant",
            model=model,
            tools=[look],
            compaction=Compaction(at_tokens=100, keep=3, model=summarizer),
        )
    )
    for n in range(3):
        await app.engine.answer(said(f"look {n}"))
    for prompt in model.prompts:
        open_calls: set[str] = set()
        for message in prompt.messages:
            open_calls |= {call.id for call in message.tool_calls}
            for result in message.tool_results:
                assert result.call_id in open_calls


async def test_more_messages_than_the_history_holds_are_summarised_none_forgotten() -> None:
    model = ScriptedModel([f"a{n}" for n in range(30)])
    summarizer = ScriptedModel(["All of it."])
    app = test_app(
        Agent(
            name="assistant",
            model=model,
            history=4,
            compaction=Compaction(at_tokens=200, keep=4, model=summarizer),
        )
    )
    for n in range(30):
        await app.engine.answer(said(f"q{n}"))
    assert all(f"q{n}" in summarizer.prompts[0].messages[0].text for n in range(20))
