"""Redaction: what is found and what is left alone, measured on data of others, and at work in an app."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core.agent import Agent
from agent_core.engine.runs import Inbound
from agent_core.errors import ConfigError
from agent_core.messages import INLINE_LIMIT, File, Message, Prompt, Reply, Text, ToolCall, ToolResult
from agent_core.plugins.personal import KINDS, REGIONS, find, finders
from agent_core.plugins.redact import Redact
from agent_core.testing import ScriptedModel, test_app
from agent_core.tools.base import tool

FINDERS = finders(KINDS, REGIONS)
REDACT = Redact()

# ISO, Wikipedia and issuers' own test numbers; no real person's.
FOUND: list[tuple[str, str]] = [
    ("email", "a.b+c@example.com"),
    ("email", "jürgen@müller.example.de"),
    ("email", "O'Neil_99@mail.example.co.uk"),
    ("card", "4111111111111111"),
    ("card", "4111 1111 1111 1111"),
    ("card", "4111-1111-1111-1111"),
    ("card", "5555555555554444"),
    ("card", "2223003122003222"),
    ("card", "378282246310005"),
    ("card", "3782 822463 10005"),
    ("card", "6011111111111117"),
    ("card", "3530111333300000"),
    ("card", "30569309025904"),
    ("card", "6200000000000005"),
    ("card", "４１１１１１１１１１１１１１１１"),
    ("iban", "GB29 NWBK 6016 1331 9268 19"),
    ("iban", "DE89370400440532013000"),
    ("iban", "fr1420041010050500013m02606"),
    ("iban", "NO9386011117947"),
    ("cn_id", "11010519491231002X"),
    ("cn_id", "440524188001010014"),
    ("phone", "+1 415 555 2671"),
    ("phone", "+442079460958"),
    ("phone", "+86 138 0013 8000"),
    ("phone", "(415) 555-2671"),
    ("phone", "415-555-2671"),
    ("phone", "13800138000"),
    ("phone", "0049 30 901820"),
    ("phone", "030 901820123"),
]
FRAMES = [
    "{}",
    "It is {}.",
    "({})",
    '"{}"',
    "x: {}, y",
    "我的是{}，谢谢",
    "a\n{}\nb",
    "{}!",
    "mine,{},yours",
    "<{}>",
]


@pytest.mark.parametrize(("kind", "value"), FOUND)
def test_it_is_found_wherever_it_stands(kind: str, value: str) -> None:
    for frame in FRAMES:
        assert REDACT.redact(frame.format(value)) == frame.format(f"[{kind}]"), frame


LEFT = [
    "order 4155552671",
    "Order number: 13800138000",
    "订单号13800138000",
    "invoice no. 2025-000123456",
    "tracking 1Z999AA10123456784",
    "It costs 1 234 567 890 EUR or 1,234,567.89",
    "on 2026-11-22 10:30:15, 22.11.2026, 11/22/2026",
    "2026-11-22T10:30:15.123456+00:00",
    "between 1990-2000 and 2001 - 2026",
    "192.168.100.200 and 10.0.0.1:8080",
    "at 1750000000 or 1750000000123",
    "550e8400-e29b-41d4-a716-446655440000",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "ISBN 978-3-16-148410-0",
    "SSN 078-05-1120",
    "lat 48.208176, lon 16.373819",
    "v2026.11.22-1234567",
    "#123456789",
    "4111111111111112",
    "0000000000000000",
    "DE89370400440532013001",
    "GB29NWBK6016133192681",
    "110105194912310021",
    "11010519491331002X",
    "user@localhost and @handle and a@b",
    "https://example.com/a/4155552671",
    "U4111111111111111",
    "3.14159265358979323846",
    "1 2 3 4 5 6 7 8 9 10 11 12 13",
    "row 12 34 56 78 90 12",
    "17151 2450 Crown Street",
    "12345-6789",
    '{"id": 123456789012, "n": [10, 20, 30]}',
]


@pytest.mark.parametrize("text", LEFT)
def test_what_is_no_personal_data_is_left_alone(text: str) -> None:
    assert REDACT.redact(text) == text


def test_words_around_decide_about_bare_digits() -> None:
    assert REDACT.redact("Call me: 4155552671") == "Call me: [phone]"
    assert REDACT.redact("My mobile is 0612345678, thanks") == "My mobile is [phone], thanks"
    assert REDACT.redact("my credit card 503802053770") == "my credit card [card]"
    assert REDACT.redact("parcel 503802053770") == "parcel 503802053770"


def test_neighbours_are_told_apart() -> None:
    text = "a@example.com,b@example.com 4111 1111 1111 1111 12 5555555555554444 DE89 3704 0044 0532 0130 00 is my IBAN"
    assert REDACT.redact(text) == "[email],[email] [card] 12 [card] [iban] is my IBAN"


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_kinds_asked_for(kind: str) -> None:
    text = " ; ".join(value for _, value in FOUND)
    found = {one.kind for one in find(text, finders([kind], REGIONS))}
    assert found == {kind}


SPANS = {"EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban"}
FLOORS = {"email": (1.0, 1.0), "phone": (0.98, 0.92), "card": (1.0, 1.0), "iban": (1.0, 1.0)}


def test_precision_and_recall_on_presidio_s_synthetic_texts(shared_data: Path) -> None:
    """1,500 texts with 298 spans of four of our kinds; a span counts as found where all of it is masked."""
    rows = json.loads((shared_data / "presidio_synth_dataset_v2.json").read_text(encoding="utf-8"))
    right, missed, wrong = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        found = find(row["full_text"], FINDERS)
        spans = [
            (span["start_position"], span["end_position"], SPANS[span["entity_type"]])
            for span in row["spans"]
            if span["entity_type"] in SPANS
        ]
        for start, end, kind in spans:
            whole = any(one.kind == kind and one.start <= start and one.end >= end for one in found)
            (right if whole else missed)[kind] += 1
        for one in found:
            if not any(
                one.kind == kind and one.start < end and one.end > start for start, end, kind in spans
            ):
                wrong[one.kind] += 1
    print(f"\n{'kind':8}{'spans':>6}{'found':>6}{'wrong':>6}{'precision':>11}{'recall':>8}")
    for kind, (least_precision, least_recall) in FLOORS.items():
        spans_of = right[kind] + missed[kind]
        precision, recall = right[kind] / (right[kind] + wrong[kind]), right[kind] / spans_of
        print(f"{kind:8}{spans_of:6}{right[kind]:6}{wrong[kind]:6}{precision:11.3f}{recall:8.3f}")
        assert precision >= least_precision, kind
        assert recall >= least_recall, kind
    assert not wrong["cn_id"]


def test_texts_without_personal_data_stay_as_they_are(shared_data: Path) -> None:
    """13,600 questions of banking customers and of a search engine: nothing in them is personal, nothing is masked."""
    with (shared_data / "banking77_train.csv").open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    with (shared_data / "nq_open_dev.jsonl").open(encoding="utf-8") as file:
        texts += [json.loads(line)["question"] for line in file]
    assert len(texts) > 13_000
    assert [text for text in texts if REDACT.redact(text) != text] == []


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("0123456789 .-+()@aA:/,x") | st.characters(), max_size=200))
def test_any_text_is_read_and_nothing_is_left_after_once(text: str) -> None:
    masked = REDACT.redact(text)
    assert find(text, FINDERS) == [] or masked != text


@pytest.mark.parametrize(
    "text",
    ["1 " * 30_000, "1  " * 20_000, "(1) " * 15_000, "a" * 60_000, "a@" * 30_000, "a." * 30_000 + "@", "1" * 60_000,
     "GB29" * 15_000, "AB12 " * 12_000, "a@" + "b." * 30_000, "+" * 60_000, "4111 " * 12_000, "0.1" * 20_000],
)  # fmt: skip
def test_no_text_makes_it_slow(text: str) -> None:
    """Made to make patterns go back and forth: eight times the text takes about eight times the CPU, not 64 times."""

    def cpu(length: int) -> float:
        """Of the quietest of three: what else the machine does only ever adds."""
        taken = []
        for _ in range(3):
            start = time.process_time()
            REDACT.redact(text[:length])
            taken.append(time.process_time() - start)
        return min(taken)

    short, whole = cpu(len(text) // 8), cpu(len(text))
    assert whole < 32 * max(short, 0.001), (
        f"{whole / max(short, 0.001):.0f} times the CPU for 8 times the text"
    )


# -- as a plugin


def test_messages_keep_all_but_the_data() -> None:
    message = Message(
        role="user", parts=(Text("I am a@example.com"), File("text/plain", data=b"a@example.com")), seq=3
    )
    masked = REDACT.process(message)
    assert masked == msgspec.structs.replace(message, parts=(Text("I am [email]"), message.parts[1]))


def test_tool_arguments_stay_json() -> None:
    call = ToolCall(
        id="c",
        name="t",
        arguments=json.dumps(
            {"to": ["a@example.com"], "card": 4111111111111111, "n": 7, "ok": True, "x": None, "f": 0.5}
        ),
    )
    assert json.loads(REDACT.before_tool(call).arguments) == {
        "to": ["[email]"],
        "card": "[card]",
        "n": 7,
        "ok": True,
        "x": None,
        "f": 0.5,
    }
    untouched = ToolCall(id="c", name="t", arguments='{ "n":  7 }')
    assert REDACT.before_tool(untouched) == untouched
    broken = ToolCall(id="c", name="t", arguments='{"to": "a@example.com"')
    assert REDACT.before_tool(broken).arguments == '{"to": "[email]"'


def test_tool_results_are_masked_as_json_or_as_words() -> None:
    def masked(content: str) -> str:
        return REDACT.after_tool(ToolResult(call_id="c", name="t", content=content)).content

    assert masked("ask a@example.com") == "ask [email]"
    assert (
        masked('[{"mail":"a@example.com","card":4111111111111111}]') == '[{"mail":"[email]","card":"[card]"}]'
    )
    assert masked('{"a@example.com":1}') == '{"[email]":1}'


def test_masks_and_hooks_can_be_chosen() -> None:
    chosen = Redact(["email"], mask="<{kind} removed>", hooks=["process"])
    assert chosen.redact("a@example.com 4111111111111111") == "<email removed> 4111111111111111"
    reply = Message.of("assistant", "a@example.com")
    assert chosen.on_reply(reply) is reply
    assert chosen.observes
    assert not REDACT.observes
    call = ToolCall(id="c", name="t", arguments='"a@example.com"')
    assert chosen.before_tool(call) is call


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": ["mail"]}, "redact knows no mail; there are: email, phone"),
        ({"hooks": ["x"]}, "redact knows no hook x"),
    ],
)
def test_options_that_can_t_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Redact(**options)


def test_the_libraries_are_loaded_when_there_is_something_to_check() -> None:
    code = """
        import sys
        from agent_core.plugins.redact import Redact
        redact = Redact()
        redact.redact("Hello, order 12 please, mail a@example.com")
        assert not {"phonenumbers", "stdnum"} & set(sys.modules)
        redact.redact("+1 415 555 2671")
        assert "phonenumbers" in sys.modules
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


# -- in an app


async def test_neither_model_nor_caller_sees_it() -> None:
    """In the message, in a part so long that it is kept apart, in a tool's result, and in the reply."""

    @tool
    def customer(order: str) -> dict[str, str]:
        """Who ordered."""
        return {"order": order, "mail": "b@example.com"}

    def answer(prompt: Prompt) -> Reply:
        return Reply(message=Message.of("assistant", "Write to c@example.com"))

    model = ScriptedModel([ToolCall(id="c1", name="customer", arguments='{"order": "A7"}'), answer])
    app = test_app(Agent(name="a", model=model, tools=[customer], plugins=[Redact()]))
    long = "x " * INLINE_LIMIT + "a@example.com"
    message = Message(role="user", parts=(Text("I am a@example.com. "), Text(long)))
    run = await app.engine.answer(Inbound(messages=(message,)))
    assert run.status == "succeeded", run.failure
    assert run.reply is not None
    assert run.reply.text == "Write to [email]"
    seen = b"".join(msgspec.json.encode(prompt) for prompt in model.prompts)
    assert b"@example.com" not in seen
    assert seen.count(b"I am [email]. ") == 2
    assert seen.count(b"x [email]") == 2
    assert b'\\"mail\\":\\"[email]\\"' in seen
    await app.close()
