"""Credentials come from the first place that has some, and are renewed in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_core.aws.client import AwsClient
from agent_core.aws.credentials import EARLY, Chain, Container, Instance, Profile, credentials_of
from agent_core.aws.services import make_client, sqs
from agent_core.aws.sigv4 import Credentials
from agent_core.errors import ConfigError, ConnectError, StoreBusyError, StoreError
from agent_core.settings import Settings
from agent_core.testing import ManualClock, ScriptedWire
from agent_core.wire.base import Request
from agent_core.wire.scripted import Answer

HOUR = 3600.0


def role(clock: ManualClock, name: str, life: float = HOUR) -> Answer:
    """What an endpoint answers."""
    from datetime import UTC, datetime  # here alone is a date needed

    expiration = datetime.fromtimestamp(clock.now() + life, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {"AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": expiration}
    return Answer(body=msgspec.json.encode(fields))


def settings(tmp_path: Path, **fields: Any) -> Settings:
    return Settings(**{"aws_shared_credentials_file": str(tmp_path / "credentials"), **fields})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(jump=True)


async def test_the_environment_comes_first(tmp_path: Path, clock: ManualClock) -> None:
    given = settings(
        tmp_path,
        aws_access_key_id="A",
        aws_secret_access_key="s",
        aws_session_token="t",
        aws_container_credentials_full_uri="http://127.0.0.1/x",
    )
    assert await credentials_of(given, ScriptedWire(), clock).current() == Credentials("A", "s", "t")


async def test_the_containers_endpoint_is_asked_with_its_token(tmp_path: Path, clock: ManualClock) -> None:
    token = tmp_path / "token"
    wire = ScriptedWire([role(clock, "first"), role(clock, "second")])
    given = settings(
        tmp_path,
        aws_container_credentials_full_uri="http://169.254.170.23/v1",
        aws_container_authorization_token_file=str(token),
    )
    token.write_text("one\n")
    chain = credentials_of(given, wire, clock)
    assert (await chain.current()).access_key == "first"
    token.write_text("two")
    clock.advance(HOUR - EARLY)
    assert (await chain.current()).access_key == "second"
    assert [request.headers["authorization"] for request in wire.requests] == ["one", "two"]


async def test_ecs_gives_a_path(tmp_path: Path, clock: ManualClock) -> None:
    wire = ScriptedWire([role(clock, "ecs")])
    given = settings(tmp_path, aws_container_credentials_relative_uri="/v2/x")
    await credentials_of(given, wire, clock).current()
    assert wire.requests[0].url == "http://169.254.170.2/v2/x"


def test_credentials_do_not_go_over_a_plain_connection_to_strangers() -> None:
    with pytest.raises(ConfigError):
        Container(ScriptedWire(), "http://somewhere.example/x")
    Container(ScriptedWire(), "https://somewhere.example/x")


async def test_they_are_kept_until_shortly_before_they_expire(clock: ManualClock) -> None:
    wire = ScriptedWire([role(clock, "first")])
    chain = Chain((Container(wire, "http://127.0.0.1/"),), clock)
    for _ in range(3):
        assert (await chain.current()).access_key == "first"
    clock.advance(HOUR - EARLY)
    wire.add(role(clock, "second"))
    assert (await chain.current()).access_key == "second"
    wire.assert_used_up()


async def test_the_old_ones_count_while_renewing_fails_and_until_they_expire(clock: ManualClock) -> None:
    wire = ScriptedWire([role(clock, "first")])
    chain = Chain((Container(wire, "http://127.0.0.1/"),), clock)
    await chain.current()
    clock.advance(HOUR - EARLY)
    wire.add(*[ConnectError("down")] * 3)
    assert (await chain.current()).access_key == "first"
    assert (await chain.current()).access_key == "first", "not asked again at once"
    wire.assert_used_up()
    clock.advance(EARLY)
    wire.add(Answer(status=500), Answer(status=500), Answer(status=500))
    with pytest.raises(StoreBusyError):
        await chain.current()
    wire.add(role(clock, "second"))
    assert (await chain.current()).access_key == "second"


@pytest.mark.parametrize(
    "answer", [Answer(status=403), Answer(body=b"<html>"), Answer(body=b'{"AccessKeyId": 1}')]
)
async def test_an_endpoint_that_gives_none_is_told(clock: ManualClock, answer: Answer) -> None:
    with pytest.raises(StoreBusyError):
        await Chain((Container(ScriptedWire([answer]), "http://127.0.0.1/"),), clock).current()


async def test_a_profile_is_read_from_the_shared_file(tmp_path: Path, clock: ManualClock) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\naws_access_key_id = D\naws_secret_access_key = s%\n"
        "[work]\naws_access_key_id = W\naws_secret_access_key = x\naws_session_token = t\n"
    )
    assert await Profile(file).load() == Credentials("D", "s%")
    chain = credentials_of(settings(tmp_path, aws_profile="work"), ScriptedWire(), clock)
    assert await chain.current() == Credentials("W", "x", "t")
    assert await Profile(file, "none").load() is None


async def test_a_file_that_can_not_be_read_is_told_without_its_content(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("aws_secret_access_key = hidden\n")
    with pytest.raises(ConfigError) as caught:
        await Profile(file).load()
    assert "hidden" not in caught.value.detail
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        await Profile(file).load()


async def test_without_any_it_is_said_what_to_do_and_the_metadata_service_is_not_asked(
    tmp_path: Path, clock: ManualClock
) -> None:
    wire = ScriptedWire()
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        await credentials_of(settings(tmp_path), wire, clock).current()
    assert wire.requests == []


async def test_the_metadata_service_is_asked_for_a_token_first(tmp_path: Path, clock: ManualClock) -> None:
    wire = ScriptedWire([Answer(body=b"session"), Answer(body=b"my-role\n"), role(clock, "ec2")])
    chain = credentials_of(settings(tmp_path, aws_instance_metadata=True), wire, clock)
    assert (await chain.current()).access_key == "ec2"
    token, name, last = wire.requests
    assert (token.method, name.method) == ("PUT", "GET")
    assert token.url == "http://169.254.169.254/latest/api/token"
    assert last.url.endswith("/iam/security-credentials/my-role")
    assert last.headers["x-aws-ec2-metadata-token"] == "session"


async def test_an_instance_without_a_role_has_none() -> None:
    assert await Instance(ScriptedWire([Answer(body=b"t"), Answer()])).load() is None


# -- the client


def asking(wire: ScriptedWire, clock: ManualClock, chain: Chain) -> AwsClient:
    return AwsClient(wire, clock, chain, "eu-west-1")


async def test_credentials_that_the_service_refuses_are_loaded_anew_once(clock: ManualClock) -> None:
    source = Container(ScriptedWire([role(clock, "old"), role(clock, "new")]), "http://127.0.0.1/")
    refused = Answer(status=400, body=b'{"__type": "ExpiredTokenException"}')
    wire = ScriptedWire([refused, Answer()])
    request = Request(method="POST", url="https://sqs.test/")
    await asking(wire, clock, Chain((source,), clock)).send(request, "sqs", idempotent=False)
    assert [
        "old" in wire.requests[0].headers["authorization"],
        "new" in wire.requests[1].headers["authorization"],
    ]
    again = Container(ScriptedWire([role(clock, "a"), role(clock, "b")]), "http://127.0.0.1/")
    with pytest.raises(StoreError, match="ExpiredToken"):
        await asking(ScriptedWire([refused, refused]), clock, Chain((again,), clock)).send(
            request, "sqs", idempotent=True
        )


def test_a_region_and_a_url_are_needed(clock: ManualClock) -> None:
    with pytest.raises(ConfigError, match="AWS_REGION"):
        make_client(Settings(), clock, ScriptedWire())
    with pytest.raises(ConfigError, match="no URL of a queue"):
        sqs(make_client(Settings(aws_region="eu-west-1"), clock, ScriptedWire()), "work")
