"""Prices: which rate a model name finds, own prices over the facts, unknown never counted as nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from agent_core.costs.ledger import dollars
from agent_core.costs.pricing import FACTS, Prices, split_name
from agent_core.errors import ConfigError
from agent_core.messages import Usage

NOON = 1_795_348_800.0  # 2026-11-22 12:00 UTC
NIGHT = NOON + 6 * 3600  # 18:00 UTC, DeepSeek's cheaper hours
SPRING_2025 = 1_743_500_000.0  # 2025-04-01
SUMMER_2026 = 1_784_000_000.0  # 2026-07-14

PLAIN = Usage(input=1_000_000, output=100_000)
CACHED = Usage(input=100_000, cached_input=80_000, output=1_000, reasoning=400)

# Worked out by hand from the providers' own price pages, USD per million tokens as input / cached / output.
BY_HAND = [
    # https://platform.openai.com/docs/pricing: 0.25 / 0.025 / 2.00
    ("openai:gpt-5-mini", PLAIN, NOON, "0.45"),
    # 20,000 x 0.25 + 80,000 x 0.025 + 1,000 x 2.00 = 5,000 + 2,000 + 2,000 millionths; reasoning is part of output
    ("openai:gpt-5-mini-2025-08-07", CACHED, NOON, "0.009"),
    # 2.50 / 1.25 / 10.00: 20,000 x 2.5 + 80,000 x 1.25 + 1,000 x 10
    ("openai:gpt-4o", CACHED, NOON, "0.16"),
    # cut from 10 / 40 to 2 / 8 on 2025-06-10
    ("openai:o3", PLAIN, SPRING_2025, "14.00"),
    ("openai:o3", PLAIN, NOON, "2.80"),
    # 2.50 / 0.25 / 15, over 272,000 input tokens 5 / 0.5 / 22.50 for all of them: 1 M x 5 + 0.1 M x 22.50
    ("openai:gpt-5.4", PLAIN, NOON, "7.25"),
    ("openai:gpt-5.4", Usage(input=272_000, output=1_000), NOON, "0.695"),
    ("openai:gpt-5.4", Usage(input=272_001, output=1_000), NOON, "1.382505"),
    # embeddings: 0.02 for input
    ("openai:text-embedding-3-small", Usage(input=12_345), NOON, "0.0002469"),
    # https://www.anthropic.com/pricing#api: 1 / 0.10 / 5, cache writes 1.25:
    # 10,000 x 1 + 80,000 x 0.1 + 10,000 x 1.25 + 1,000 x 5 = 10,000 + 8,000 + 12,500 + 5,000 millionths
    (
        "anthropic:claude-haiku-4-5-20251001",
        Usage(input=100_000, cached_input=80_000, cache_write=10_000, output=1_000),
        NOON,
        "0.0355",
    ),
    # 3 / 0.30 / 15 up to 200,000 input tokens, then 6 / 0.60 / 22.50
    ("anthropic:claude-sonnet-4-5-20250929", CACHED, NOON, "0.099"),
    ("anthropic:claude-sonnet-4-5-20250929", PLAIN, NOON, "8.25"),
    # 15 / 1.50 / 75
    ("anthropic:claude-opus-4-1", PLAIN, NOON, "22.50"),
    # 2 / 10 until 2026-08-31, 3 / 15 from 2026-09-01
    ("anthropic:claude-sonnet-5", PLAIN, SUMMER_2026, "3.00"),
    ("anthropic:claude-sonnet-5", PLAIN, NOON, "4.50"),
    # https://ai.google.dev/gemini-api/docs/pricing: 1.25 / 0.125 / 10, over 200,000 2.50 / 0.25 / 15
    ("google:gemini-2.5-pro", CACHED, NOON, "0.045"),
    ("gemini:gemini-2.5-pro", PLAIN, NOON, "4.00"),
    # 0.30 / 0.03 / 2.50
    ("google:gemini-2.5-flash", PLAIN, NOON, "0.55"),
    # https://api-docs.deepseek.com/quick_start/pricing: 0.27 / 0.07 / 1.10, half of that from 16:30 to 00:30 UTC
    ("deepseek:deepseek-chat", PLAIN, NOON, "0.38"),
    ("deepseek:deepseek-chat", PLAIN, NIGHT, "0.19"),
    # https://mistral.ai/pricing: 2 / 6, no price for cached input: it costs what input costs
    ("mistral:mistral-large-latest", CACHED, NOON, "0.206"),
    # https://groq.com/pricing: 0.59 / 0.79
    ("groq:llama-3.3-70b-versatile", PLAIN, NOON, "0.669"),
    # https://docs.x.ai/docs/models: 3 / 0.75 / 15
    ("xai:grok-4", CACHED, NOON, "0.135"),
    # https://aws.amazon.com/bedrock/pricing: 0.06 / 0.015 / 0.24; Claude in a region 10 % above its global price
    ("bedrock:us.amazon.nova-lite-v1:0", PLAIN, NOON, "0.084"),
    (
        "bedrock:eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
        Usage(input=1_000, output=1_000),
        NOON,
        "0.0198",
    ),
    # https://docs.perplexity.ai/guides/pricing: 1 / 1 and 12 per thousand requests
    ("perplexity:sonar", Usage(input=1_000, output=500), NOON, "0.0135"),
    # Azure sells OpenAI's models at OpenAI's price
    ("azure:gpt-5-mini", PLAIN, NOON, "0.45"),
    # https://openrouter.ai/models, found by its endpoint
    # 0.20 / 0.05 / 0.50, over 128,000 tokens 0.40 / 0.05 / 1: 100,000 x 0.4 + 100,000 x 0.05 + 1,000 x 1
    (
        "openai@https://openrouter.ai/api/v1:x-ai/grok-4-fast",
        Usage(input=200_000, cached_input=100_000, output=1_000),
        NOON,
        "0.046",
    ),
    ("openai@https://api.deepseek.com/v1:deepseek-chat", PLAIN, NOON, "0.38"),
]


@pytest.mark.parametrize(("model", "usage", "at", "usd"), BY_HAND)
def test_prices_worked_out_by_hand(model: str, usage: Usage, at: float, usd: str) -> None:
    cost = Prices().cost(model, usage, at)
    assert cost is not None
    assert dollars(cost) == usd


@pytest.mark.parametrize("model", ["local:smollm2", "scripted:test"])
def test_models_of_this_process_are_known_to_be_free(model: str) -> None:
    assert Prices().cost(model, PLAIN, NOON) == 0
    assert Prices().known(model)


@pytest.mark.parametrize(
    "model",
    [
        "openai:gpt-99",
        "nobody:gpt-5-mini",
        "openai@https://llm.example.com/v1:gpt-5-mini",  # the name may be OpenAI's, the bill is not
        "openai@http://127.0.0.1:11434/v1:qwen3:8b",
        "assistant",
        "local",
        "openai:",
        "openai@https://api.openai.com/v1",
        "",
    ],
)
def test_an_unknown_price_is_none_even_for_no_tokens(model: str) -> None:
    prices = Prices()
    assert prices.cost(model, PLAIN, NOON) is None
    assert prices.cost(model, Usage(), NOON) is None
    assert not prices.known(model)


def test_output_of_a_model_without_an_output_price_is_unknown() -> None:
    assert Prices().cost("openai:text-embedding-3-small", Usage(input=10, output=1), NOON) is None


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("openai:gpt-5-mini", ("openai", "", "gpt-5-mini")),
        ("bedrock:anthropic.claude-v2:1", ("bedrock", "", "anthropic.claude-v2:1")),
        ("openai@http://127.0.0.1:11434/v1:qwen3:8b", ("openai", "http://127.0.0.1:11434/v1", "qwen3:8b")),
        ("openai@https://host:meta/llama", ("openai", "https://host", "meta/llama")),
        ("openai@http://[::1]:8080/v1:m", ("openai", "http://[::1]:8080/v1", "m")),
    ],
)
def test_names_are_split_at_the_right_colon(name: str, parts: tuple[str, str, str]) -> None:
    assert split_name(name) == parts


def test_own_prices_win_and_the_longest_beginning_counts() -> None:
    prices = Prices(
        {
            "openai:gpt-5-mini": {"input": 0.1, "output": 0.7},
            "openai@https://llm.example.com/*": {"input": 1, "output": 1},
            "openai@https://llm.example.com/v1:qwen3*": {"input": "0.000000001", "output": 2},
            "assistant": [{"input": 1, "output": 1}, {"input": 2, "output": 2, "since": "2026-01-01"}],
        }
    )
    assert prices.cost("openai:gpt-5-mini", PLAIN, NOON) == 170_000_000
    assert prices.cost("openai:gpt-5", PLAIN, NOON) == Prices().cost("openai:gpt-5", PLAIN, NOON)
    assert prices.cost("openai@https://llm.example.com/v1:phi", PLAIN, NOON) == 1_100_000_000
    assert prices.cost("openai@https://llm.example.com/v1:qwen3:8b", PLAIN, NOON) == 200_000_001
    assert prices.cost("assistant", PLAIN, SPRING_2025) == 1_100_000_000
    assert prices.cost("assistant", PLAIN, NOON) == 2_200_000_000


def test_own_prices_from_a_file_are_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(
        '{"openai@https://h/v1:m": {"input": 0.1, "cached_input": 0.01, "output": 0.3, "request": 0.005}}'
    )
    usage = Usage(input=3, cached_input=1, output=1)
    # 2 x 100 + 1 x 10 + 1 x 300 nano-dollars, and 5,000,000 for the request
    assert Prices(path).cost("openai@https://h/v1:m", usage, NOON) == 5_000_510
    assert Prices(str(path)).cost("openai:gpt-5-mini", PLAIN, NOON) == 450_000_000


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ('{"a:b": {"input": -1}}', "price -1"),
        ('{"a:b": {"input": 0.0000000001}}', "nine decimals"),
        ('{"a:b": {}}', "needs a price"),
        ('{"a:b": []}', "a:b has no price"),
        ('{"a:b": {"input": 1, "outptu": 2}}', "outptu"),
        ('{"a:b": {"input": 1, "since": "20260101"}}', "since 20260101"),
        ('{"a:b": {"input": 1, "between": ["8:00", "9:00"]}}', "8:00"),
        ('{"a:b": {"input": 1, "over": [{"tokens": 5, "output": -2}]}}', "price -2"),
    ],
)
def test_own_prices_that_cannot_be_used_name_the_file_and_the_reason(
    tmp_path: Path, content: str, why: str
) -> None:
    path = tmp_path / "prices.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="SAMPAN_PRICES=") as caught:
        Prices(path)
    assert why in caught.value.detail


def test_a_missing_file_of_own_prices_is_said() -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        Prices("/nowhere/prices.json")


def test_only_the_files_of_the_provider_asked_for_are_opened() -> None:
    from agent_core.costs import pricing

    pricing._models.cache_clear()
    Prices().cost("anthropic:claude-haiku-4-5", PLAIN, NOON)
    assert pricing._models.cache_info().misses == 1


def test_the_facts_are_what_the_script_makes_of_the_price_list(shared_data: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "scripts" / "make_prices.py"
    spec = importlib.util.spec_from_file_location("make_prices", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(shared_data / "genai_prices_data_slim.json", tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in FACTS.iterdir()}
    assert all("MIT" in text and "genai-prices" in text for text in made.values())
