"""No secret is in a log, prompt, error, journal or record; secrets may be named instead of given."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from agent_core import Agent, Message, tool
from agent_core.app import build_app
from agent_core.engine.runs import Inbound
from agent_core.errors import ConfigError
from agent_core.security.secrets import (
    MASK,
    SecretFilter,
    Secrets,
    SecretWire,
    fetch_secret,
    guard_logs,
    resolved,
)
from agent_core.settings import Settings
from agent_core.testing import ManualClock, ScriptedModel, ScriptedWire, test_app
from agent_core.wire.base import Request
from agent_core.wire.scripted import Answer

CANARY = "canary-5d1f0c77-of-the-key"
KEYS = [
    "sk-" + "a1" * 20, "sk-ant-api03-" + "b2" * 20, "AKIA" + "A1" * 8, "ghp_" + "c" * 36, "xoxb-12345-" + "d" * 20,
    "sk_live_" + "e" * 24, "whsec_" + "f" * 32, "AIza" + "g" * 35, "glpat-" + "h" * 20, "123456789:AA" + "i" * 33,
    "eyJ" + "j" * 12 + ".eyJ" + "k" * 12 + "." + "l" * 12, "-----BEGIN RSA PRIVATE KEY-----", "hf_" + "m" * 34,
    "sampan_abcd1234_" + "n" * 43,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_known_formats_are_found_and_masked(key: str) -> None:
    text = f"use {key}, please"
    assert Secrets().find(text) == "what looks like a key or a token"
    assert key not in Secrets().mask(text)
    assert Secrets().mask(text).startswith("use [secret]")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The task-force asks-politely",
        "sk-short",
        "github.com/ghost",
        "say eyJ",
        "0123456789:AA",
        "risk-" + "a" * 30,
    ],
)
def test_plain_words_are_left_alone(text: str) -> None:
    assert Secrets([CANARY]).find(text) == ""
    assert Secrets([CANARY]).mask(text) == text


def test_values_of_settings_are_found_but_not_short_ones() -> None:
    secrets = Secrets([CANARY, "short", "", "ssm:/names/are/no-secrets"])
    assert secrets.find(f"x{CANARY}x") == "the value of a secret setting"
    assert (
        secrets.mask(f"short {CANARY} ssm:/names/are/no-secrets") == f"short {MASK} ssm:/names/are/no-secrets"
    )


def test_settings_know_their_secrets() -> None:
    environ = {
        "MODEL_API_KEY": CANARY, "SAMPAN_CHANNELS": "slack", "SAMPAN_SLACK_SIGNING_SECRET": "old-secret new-secret",
        "SAMPAN_SLACK_AGENT": "assistant", "SAMPAN_DEFAULT_AGENT": "assistant",
    }  # fmt: skip
    assert set(Settings.from_env(environ).secrets()) == {CANARY, "old-secret", "new-secret"}


def test_a_prompt_with_a_secret_does_not_start() -> None:
    @tool(description=f"Calls with {KEYS[0]}")
    def call() -> str:
        return "x"

    for agent in (
        Agent(name="a", model=ScriptedModel(), instructions=f"The key is {CANARY}."),
        Agent(name="a", model=ScriptedModel(), instructions=f"The key is {KEYS[2]}."),
        Agent(name="a", model=ScriptedModel(), tools=[call]),
    ):
        with pytest.raises(ConfigError, match=r"agent a: .* holds") as caught:
            test_app(agent, model_api_key=CANARY)
        assert not any(secret in str(caught.value) for secret in (CANARY, *KEYS))
    test_app(Agent(name="a", model=ScriptedModel()), model_api_key=CANARY)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a handler of the root logger writes, guarded."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(user)s", defaults={"user": "-"}))
    logging.getLogger().addHandler(handler)
    guard_logs(Secrets([CANARY]))
    guard_logs(Secrets([CANARY]))
    assert sum(isinstance(one, SecretFilter) for one in handler.filters) == 1
    yield out
    logging.getLogger().removeHandler(handler)
    guard_logs(Secrets())


def test_the_logger_is_the_second_net(lines: io.StringIO) -> None:
    log = logging.getLogger("sampan.test")
    log.warning("key=<%s> | refused", CANARY)
    log.warning("%s", {"token": KEYS[0]}, extra={"user": CANARY})
    log.warning("%d of them", "no number")
    try:
        raise ValueError(f"the key {CANARY} is wrong")
    except ValueError:
        log.exception("failed")
    text = lines.getvalue()
    assert CANARY not in text
    assert KEYS[0] not in text
    assert "key=<[secret]> | refused" in text
    assert "ValueError: the key [secret] is wrong" in text
    assert "no number" in text


async def test_a_canary_is_nowhere_after_a_run_that_failed_with_it(
    tmp_path: Path, lines: io.StringIO
) -> None:
    wire = ScriptedWire([Answer(status=401, body=f'{{"error": {{"message": "bad key {CANARY}"}}}}'.encode())])
    settings = Settings.from_env(
        {}, data=str(tmp_path), model_api_key=CANARY, model_endpoint="https://m.example/v1"
    )
    agent = Agent(name="assistant", model="openai:m")
    app = build_app(settings, agents=[agent], wire=wire, clock=ManualClock())
    run = await app.engine.answer(Inbound(messages=(Message.of("user", "Hi"),)))
    assert run.status == "failed"
    await app.close()
    assert wire.requests[0].headers["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in lines.getvalue()
    assert CANARY not in repr(run)
    assert CANARY not in str(settings.public())
    stored = contents(tmp_path)
    assert any(data.startswith(b"SQLite format 3") for data in stored)
    assert not any(CANARY.encode() in data for data in stored)


def contents(folder: Path) -> list[bytes]:
    """All files below the folder."""
    return [file.read_bytes() for file in folder.rglob("*") if file.is_file()]


async def test_the_wire_puts_a_named_secret_in_only_where_it_is_sent() -> None:
    asked: list[tuple[str, str]] = []

    def fetch(kind: str, name: str) -> str:
        asked.append((kind, name))
        return f"{CANARY}-{len(asked)}"

    inner = ScriptedWire(
        [Answer(), Answer(status=401, body=f"bad {CANARY}-2".encode()), Answer(status=403, body=b"x")]
    )
    wire = SecretWire(inner, ["ssm:/prod/key", "given-as-it-is"], fetch=fetch)
    request = Request(
        method="POST", url="https://m.example/", headers={"authorization": "Bearer ssm:/prod/key"}
    )
    await wire.send(request)
    assert (await wire.send(request)).body == b"bad [secret]"
    async with wire.stream(Request(method="GET", url="https://m.example/", headers={"x": "y"})) as answer:
        assert await answer.read() == b"x"
    assert [sent.headers for sent in inner.requests] == [
        {"authorization": f"Bearer {CANARY}-1"}, {"authorization": f"Bearer {CANARY}-2"}, {"x": "y"},
    ]  # fmt: skip
    assert asked == [("ssm", "/prod/key")] * 2  # nothing is asked where nothing is named
    await wire.close()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_DEFAULT_REGION", "eu-west-1"),
    ):
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield
    from aws_lambda_powertools.utilities import parameters

    parameters.clear_caches()


def test_secrets_come_from_ssm_and_secrets_manager_and_are_kept(aws: None) -> None:
    ssm, manager = boto3.client("ssm"), boto3.client("secretsmanager")
    ssm.put_parameter(Name="/prod/key", Value=f"{CANARY}\n", Type="SecureString")
    manager.create_secret(Name="prod/key", SecretString="other-canary")
    assert fetch_secret("ssm", "/prod/key") == CANARY
    assert resolved("secretsmanager:prod/key") == "other-canary"
    assert resolved("plain") == "plain"
    ssm.put_parameter(Name="/prod/key", Value="renewed", Type="SecureString", Overwrite=True)
    assert resolved("ssm:/prod/key") == CANARY  # kept, for five minutes
    from aws_lambda_powertools.utilities import parameters

    parameters.clear_caches()
    assert resolved("ssm:/prod/key") == "renewed"
    with pytest.raises(ConfigError, match="ssm:/no/such can't be read"):
        resolved("ssm:/no/such")


async def test_a_model_is_called_with_the_secret_that_its_setting_names(aws: None) -> None:
    boto3.client("ssm").put_parameter(Name="/prod/key", Value=CANARY, Type="SecureString")
    wire = ScriptedWire([Answer(status=401, body=f"no: {CANARY}".encode())])
    settings = Settings.from_env(
        {}, store="memory", model_api_key="ssm:/prod/key", model_endpoint="https://m.example/v1"
    )
    app = build_app(settings, agents=[Agent(name="a", model="openai:m")], wire=wire, clock=ManualClock())
    run = await app.engine.answer(Inbound(messages=(Message.of("user", "Hi"),)))
    assert wire.requests[0].headers["authorization"] == f"Bearer {CANARY}"
    assert run.status == "failed"
    assert CANARY not in repr(run)
