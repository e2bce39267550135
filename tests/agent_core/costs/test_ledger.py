"""The ledger's record of a run, and money in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.costs.ledger import Entry, Ledger, dollars, ledger_record, utc_day
from agent_core.engine.runs import Run, Step
from agent_core.messages import Principal, Usage, from_json, to_json

RUN = Run(
    id="run1",
    session_id="s1",
    agent="assistant",
    principal=Principal(tenant="acme", user="ana"),
    status="succeeded",
    created_at=1_795_391_999.0,  # 2026-11-22 23:59:59 UTC
    channel="slack",
)
STEPS = [
    Step(number=1, kind="model", name="openai:gpt-5-mini", usage=Usage(input=10, output=5), cost=12_500),
    Step(number=2, kind="tool", name="order_status"),
    Step(
        number=3, kind="model", name="openai@https://h/v1:qwen3", usage=Usage(input=20, output=5), cost=None
    ),
    Step(
        number=4, kind="model", name="openai@https://h/v1:qwen3", usage=Usage(input=20, output=5), cost=None
    ),
]


def test_a_record_holds_who_and_what_of_every_model_call() -> None:
    record = ledger_record(RUN, STEPS)
    assert record == Ledger(
        run_id="run1",
        session_id="s1",
        agent="assistant",
        tenant="acme",
        user="ana",
        channel="slack",
        day="2026-11-22",
        created_at=1_795_391_999.0,
        entries=(
            Entry(step=1, model="openai:gpt-5-mini", usage=Usage(input=10, output=5), cost=12_500),
            Entry(step=3, model="openai@https://h/v1:qwen3", usage=Usage(input=20, output=5), cost=None),
            Entry(step=4, model="openai@https://h/v1:qwen3", usage=Usage(input=20, output=5), cost=None),
        ),
    )
    assert record.cost == 12_500
    assert record.unpriced == ("openai@https://h/v1:qwen3",)
    assert from_json(Ledger, to_json(record)) == record


def test_the_day_is_utc() -> None:
    assert utc_day(1_795_391_999.999) == "2026-11-22"
    assert utc_day(1_795_392_000.0) == "2026-11-23"


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (2_250_000, "0.00225"),
        (100_000_000, "0.10"),
        (1_000_000_000, "1.00"),
        (1_234_567_890_123, "1234.567890123"),
        (-50_000_000, "-0.05"),
    ],
)
def test_money_in_words(nano: int, text: str) -> None:
    assert dollars(nano) == text


@given(st.integers())
def test_money_in_words_is_exact(nano: int) -> None:
    whole, _, decimals = dollars(nano).lstrip("-").partition(".")
    assert int(whole) * 10**9 + int(decimals.ljust(9, "0")) == abs(nano)
