"""Model strings, what the settings say over them, and the models they make."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent_core.errors import ConfigError
from agent_core.messages import Message, Prompt
from agent_core.models.catalog import PROVIDERS, make_model, parse, resolve
from agent_core.models.spec import ModelSpec
from agent_core.settings import Settings
from agent_core.testing import ManualClock, ScriptedWire
from agent_core.wire.scripted import Answer


def spec(provider: str, model: str, endpoint: str = "", api_key: str = "") -> ModelSpec:
    return ModelSpec(provider=provider, model=model, endpoint=endpoint, api_key=api_key)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("openai:gpt-5-mini", spec("openai", "gpt-5-mini")),
        ("openai:ft:gpt-4o:org::id", spec("openai", "ft:gpt-4o:org::id")),
        ("anthropic:claude-sonnet-4-5", spec("anthropic", "claude-sonnet-4-5")),
        ("local:smollm2", spec("local", "smollm2")),
        ("local:models/tiny.gguf", spec("local", "models/tiny.gguf")),
        ("openai@https://host/v1:qwen3", spec("openai", "qwen3", "https://host/v1")),
        ("openai@https://host/v1/:qwen3", spec("openai", "qwen3", "https://host/v1")),
        (
            "openai@http://127.0.0.1:11434/v1:qwen3:8b",
            spec("openai", "qwen3:8b", "http://127.0.0.1:11434/v1"),
        ),
        ("openai@http://host:8000:qwen3", spec("openai", "qwen3", "http://host:8000")),
        ("openai@http://host:qwen3:8b", spec("openai", "qwen3:8b", "http://host")),
        ("openai@http://[::1]:8000/v1:a/b", spec("openai", "a/b", "http://[::1]:8000/v1")),
        (
            "openai@https://host/a/b/v1:meta-llama/Llama-3",
            spec("openai", "meta-llama/Llama-3", "https://host/a/b/v1"),
        ),
    ],
)
def test_strings(text: str, meant: ModelSpec) -> None:
    assert parse(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpt-5",
        ":gpt",
        "openai:",
        "openai@host:m",
        "openai@https://host/v1",
        "openai:http://host/v1",
        "openai: gpt",
        "openai:a b",
    ],
)
def test_what_is_no_model_string(text: str) -> None:
    with pytest.raises(ConfigError, match="provider:model"):
        parse(text)


def test_an_unknown_provider() -> None:
    with pytest.raises(
        ConfigError, match=r"no provider 'opneai'; known are anthropic, bedrock, local, openai"
    ):
        parse("opneai:gpt-5")


URL = "https://host/v1"


@pytest.mark.parametrize(
    ("agent", "settings", "meant"),
    [
        ("openai:gpt", {}, spec("openai", "gpt")),
        ("openai:gpt", {"model_api_key": "k"}, spec("openai", "gpt", api_key="k")),
        ("openai:gpt", {"model_name": "anthropic:claude"}, spec("anthropic", "claude")),
        ("local:smollm2", {"model_name": "openai@http://a/v1:b"}, spec("openai", "b", "http://a/v1")),
        (
            "local:smollm2",
            {"model_name": "openai@http://a/v1:b", "model_endpoint": URL},
            spec("openai", "b", "http://a/v1"),
        ),
        ("local:smollm2", {"model_endpoint": URL, "model_name": "qwen3"}, spec("openai", "qwen3", URL)),
        (
            "local:smollm2",
            {"model_endpoint": URL + "/", "model_name": "qwen3:8b"},
            spec("openai", "qwen3:8b", URL),
        ),
        ("local:smollm2", {"model_endpoint": URL}, spec("openai", "default", URL)),
        ("openai:gpt", {"model_endpoint": URL}, spec("openai", "gpt", URL)),
        ("anthropic:claude", {"model_endpoint": URL}, spec("openai", "default", URL)),
        (
            "openai:gpt",
            {"model_endpoint": URL, "model_name": "anthropic:claude"},
            spec("anthropic", "claude", URL),
        ),
        ("openai:gpt", {"model_endpoint": URL, "model_name": "local:smollm2"}, spec("local", "smollm2")),
        ("openai@http://a/v1:b", {"model_api_key": "k"}, spec("openai", "b", "http://a/v1", "k")),
    ],
)
def test_settings_over_the_agent(agent: str, settings: dict[str, str], meant: ModelSpec) -> None:
    assert resolve(agent, Settings(**settings)) == meant


@pytest.mark.parametrize("name", ["gpt-5", "opneai:gpt-5"])
def test_a_bare_name_needs_an_endpoint(name: str) -> None:
    with pytest.raises(ConfigError):
        resolve("local:smollm2", Settings(model_name=name))


@pytest.mark.parametrize("endpoint", ["localhost:11434/v1", "127.0.0.1", "https://", "ftp://a/v1"])
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    """Found out when the app is built, not when the first message comes."""
    with pytest.raises(ConfigError, match="MODEL_ENDPOINT="):
        resolve("local:smollm2", Settings(model_endpoint=endpoint))


async def keys_sent(text: str, **settings: str) -> str:
    body = b'{"choices":[{"message":{"content":"a"}}],"content":[{"type":"text","text":"a"}]}'
    wire = ScriptedWire([Answer(body=body)])
    given = Settings(**settings)
    model = make_model(resolve(text, given), given, wire, ManualClock())
    await model.reply(Prompt(messages=(Message.of("user", "Hi"),)))
    headers = wire.requests[0].headers
    return headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")


async def test_keys_go_to_their_own_house_only() -> None:
    """OPENAI_API_KEY is for OpenAI: another endpoint gets MODEL_API_KEY or nothing."""
    own = {"openai_api_key": "o", "anthropic_api_key": "a"}
    assert await keys_sent("openai:gpt", **own) == "o"
    assert await keys_sent("anthropic:claude", **own) == "a"
    assert await keys_sent("openai:gpt", **own, model_api_key="m") == "m"
    assert await keys_sent("openai@https://api.openai.com/v1:gpt", **own) == "o"
    assert await keys_sent("openai@https://host/v1:gpt", **own) == ""
    assert await keys_sent("anthropic@https://host:claude", **own) == ""
    assert await keys_sent("openai@https://host/v1:gpt", **own, model_api_key="m") == "m"
    assert await keys_sent("openai@https://api.openai.com.evil.example/v1:gpt", **own) == ""


@pytest.mark.parametrize(
    ("text", "variable"), [("openai:gpt", "OPENAI_API_KEY"), ("anthropic:claude", "ANTHROPIC_API_KEY")]
)
def test_a_missing_key_is_told(text: str, variable: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        make_model(parse(text), Settings(), ScriptedWire(), ManualClock())


def test_a_spec_does_not_show_its_key() -> None:
    assert "sk-1" not in repr(spec("openai", "gpt", URL, "sk-1"))
    assert repr(spec("openai", "gpt", URL, "sk-1")) == "ModelSpec(openai@https://host/v1:gpt)"
    model = make_model(spec("openai", "gpt", URL, "sk-1"), Settings(), ScriptedWire(), ManualClock())
    assert "sk-1" not in repr(vars(model))
    assert Settings(openai_api_key="sk-1").public()["openai_api_key"] == "***"


def test_the_time_it_may_take() -> None:
    settings = Settings(
        model_first_byte_seconds=1, model_chunk_seconds=2, model_total_seconds=3, openai_api_key="k"
    )
    for text in ("openai:gpt", "anthropic@http://a:claude"):
        model = make_model(parse(text), settings, ScriptedWire(), ManualClock())
        timeouts = model._caller.timeouts  # type: ignore[attr-defined]
        assert (timeouts.first_byte, timeouts.between_chunks, timeouts.total) == (1, 2, 3)


def test_adapters_are_loaded_when_asked_for() -> None:
    adapters = [path.partition(":")[0] for path in PROVIDERS.values()]
    code = f"import sys, agent_core.models.catalog; print([n for n in sys.modules if n in {adapters}])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
