"""What must hold of every price in the facts, and of the arithmetic."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.costs.match import matches
from agent_core.costs.pricing import FACTS, _Index, _Models
from agent_core.costs.rates import Rate, rate_at
from agent_core.messages import Usage

INDEX = msgspec.json.decode((FACTS / "index.json").read_bytes(), type=_Index)
MODELS = {
    provider.id: msgspec.json.decode((FACTS / f"{provider.id}.json").read_bytes(), type=_Models).models
    for provider in INDEX.providers
}
RATES = [rate for models in MODELS.values() for model in models for rate in model.rates]
CHAT = [rate for rate in RATES if rate.input is not None and rate.output is not None]
UNTIERED = [rate for rate in CHAT if not rate.over and rate.request is None]

tokens = st.integers(0, 3_000_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    cached, written, plain = draw(tokens), draw(tokens), draw(tokens)
    output = draw(tokens)
    return Usage(input=cached + written + plain, cached_input=cached, cache_write=written, output=output)


def cost(rate: Rate, usage: Usage) -> int:
    found = rate.cost(usage)
    assert found is not None
    return found


def test_the_facts_are_many_and_complete() -> None:
    assert len(INDEX.providers) == 34
    assert sum(len(models) for models in MODELS.values()) == 1285
    assert len(RATES) == 1294


@given(st.sampled_from(CHAT), usages(), tokens)
def test_more_tokens_never_cost_less(rate: Rate, usage: Usage, more: int) -> None:
    before = cost(rate, usage)
    assert cost(rate, msgspec.structs.replace(usage, input=usage.input + more)) >= before
    assert cost(rate, msgspec.structs.replace(usage, output=usage.output + more)) >= before


@given(st.sampled_from(UNTIERED), usages(), usages())
def test_untiered_costs_add_up_within_rounding(rate: Rate, one: Usage, other: Usage) -> None:
    assert abs(cost(rate, one + other) - cost(rate, one) - cost(rate, other)) <= 1


@given(st.sampled_from(CHAT), usages())
def test_cached_input_never_costs_more_than_uncached(rate: Rate, usage: Usage) -> None:
    uncached = msgspec.structs.replace(usage, cached_input=0, cache_write=usage.cache_write)
    assert cost(rate, usage) <= cost(rate, uncached)


@given(st.sampled_from(CHAT), usages(), tokens)
def test_reasoning_is_a_part_of_output_and_not_paid_twice(rate: Rate, usage: Usage, reasoning: int) -> None:
    assert rate.cost(msgspec.structs.replace(usage, reasoning=reasoning)) == rate.cost(usage)


@given(st.sampled_from(CHAT), tokens, tokens, tokens, tokens)
def test_parts_larger_than_the_whole_are_cut_to_it(
    rate: Rate, whole: int, cached: int, written: int, out: int
) -> None:
    found = cost(rate, Usage(input=whole, cached_input=cached, cache_write=written, output=out))
    assert found >= 0
    if cached >= whole:
        assert found == cost(rate, Usage(input=whole, cached_input=whole, output=out))


def test_half_a_nano_dollar_is_rounded_up() -> None:
    rate = msgspec.convert({"input": 0.0005, "output": 0}, Rate)
    assert rate.cost(Usage(input=1)) == 1  # 0.5
    assert rate.cost(Usage(input=3)) == 2  # 1.5
    assert msgspec.convert({"input": 0.00049, "output": 0}, Rate).cost(Usage(input=1)) == 0


def test_the_highest_tier_reached_counts_for_all_tokens() -> None:
    rate = msgspec.convert(
        {
            "input": 1,
            "output": 1,
            "over": [{"tokens": 10, "input": 2, "output": 2}, {"tokens": 20, "input": 3, "output": 3}],
        },
        Rate,
    )
    costs = [rate.cost(Usage(input=count, output=1)) for count in (10, 11, 20, 21)]
    assert costs == [11_000, 24_000, 42_000, 66_000]


def test_of_several_rates_the_last_that_holds_counts_else_the_first() -> None:
    first, late, night = (
        msgspec.convert(fields, Rate)
        for fields in (
            {"input": 1},
            {"input": 2, "since": "2026-09-01"},
            {"input": 3, "between": ["22:00", "06:00"]},
        )
    )
    rates = (first, late, night)
    noon = 1_788_177_600.0  # 2026-08-31 12:00 UTC
    day, hour = 86_400, 3_600
    assert rate_at(rates, noon) is first
    assert rate_at(rates, noon + 12 * hour - 1) is night
    assert rate_at(rates, noon + day) is late
    assert rate_at(rates, noon + day + 10 * hour) is night  # 22:00, the first moment of the night
    assert rate_at(rates, noon + day - 6 * hour) is late  # 06:00, no longer night
    assert rate_at((late, night), noon) is late  # none holds


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        ({"equals": "GPT-4o"}, "gpt-4O", "gpt-4o-mini"),
        ({"starts_with": "claude-"}, "Claude-3", "a-claude-3"),
        ({"ends_with": ":free"}, "x:free", "x:free2"),
        ({"contains": "nova"}, "amazon.nova-lite", "amazon.novel"),
        ({"regex": "^o[134]$"}, "o3", "o3-mini"),
        ({"or": [{"equals": "a"}, {"equals": "b"}]}, "b", "c"),
        ({"and": [{"contains": "a"}, {"contains": "b"}]}, "ab", "a"),
    ],
)
def test_each_rule_of_the_price_list(rule: dict[str, object], yes: str, no: str) -> None:
    assert matches(rule, yes)
    assert not matches(rule, no)


def test_a_rule_nobody_knows_is_an_error() -> None:
    with pytest.raises(ValueError, match="sounds_like"):
        matches({"sounds_like": "gpt"}, "gpt")


def test_every_model_of_the_facts_is_found_by_its_own_rules() -> None:
    for provider_id, models in MODELS.items():
        for model in models:
            for name in example_names(model.match):
                assert any(matches(entry.match, name) for entry in models), (provider_id, name)


def example_names(rule: dict[str, object]) -> list[str]:
    """Names that the rule's equals and starts_with clauses promise to know."""
    ((verb, value),) = rule.items()
    if verb in ("or", "and") and isinstance(value, list):
        return [name for inner in value for name in example_names(inner)] if verb == "or" else []
    return [str(value)] if verb in ("equals", "starts_with") else []
