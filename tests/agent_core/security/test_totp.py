"""Second factors: the RFC's vectors, each code once, five tries, and no approval that needs one without it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moto import mock_aws

from agent_core import Agent, tool
from agent_core.app import App, build_app
from agent_core.engine.runs import Inbound
from agent_core.errors import ConfigError, ConflictError, NotFoundError, StepUpError
from agent_core.messages import Message, Principal, ToolCall
from agent_core.security.seal import Seal
from agent_core.security.totp import Factors, code_at, step_of
from agent_core.settings import Settings
from agent_core.store.base import Store
from agent_core.store.memory import MemoryStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import ManualClock, ScriptedModel, ScriptedWire
from tests.aws.emulator import Emulator

ME = Principal()
KEY, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite", "dynamodb"])
async def store(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Store]:
    with ExitStack() as stack:
        made: Store
        if request.param == "memory":
            made = MemoryStore(clock)
        elif request.param == "sqlite":
            made = SqliteStore(tmp_path / "s.db", clock)
        else:
            emulator: Emulator = request.getfixturevalue("emulator")
            made = stack.enter_context(emulator.store(ManualClock(jump=True)))
        yield made
        await made.close()


def seed_of(address: str) -> bytes:
    """What an authenticator app reads."""
    return base64.b32decode(parse_qs(urlsplit(address).query)["secret"][0])


def shown(seed: bytes, clock: ManualClock, later: int = 0) -> str:
    """What the app shows, so many steps later."""
    return code_at(seed, int(clock.now()) // 30 + later).decode()


async def enrolled(factors: Factors, clock: ManualClock, who: Principal = ME) -> bytes:
    seed = seed_of(await factors.add(who))
    await factors.confirm(who, shown(seed, clock))
    clock.advance(30)
    return seed


def test_the_vectors(shared_data: Path) -> None:
    vectors = json.loads((shared_data / "totp_vectors.json").read_text())
    for one in vectors["totp"]:
        seed = one["secret_ascii"].encode()
        step = one["time"] // one["step"]
        given = {"digits": one["digits"], "algorithm": one["alg"].lower()}
        assert code_at(seed, step, **given).decode() == one["code"]
        assert step_of(seed, one["code"], one["time"], **given) == step
        assert step_of(seed, one["code"], one["time"] + 90, **given) is None
    assert len(vectors["totp"]) == 18


@given(st.binary(min_size=20, max_size=20), st.integers(10, 10**6), st.integers(-3, 3))
@settings(max_examples=100, deadline=None)
def test_a_code_is_good_one_step_before_and_after_its_own(seed: bytes, step: int, off: int) -> None:
    code = code_at(seed, step + off)
    found = step_of(seed, code.decode(), step * 30 + 7.0)
    assert found is None or (abs(found - step) <= 1 and code_at(seed, found) == code)  # two may have one code
    assert found is not None or abs(off) > 1


@pytest.mark.parametrize("code", ["", "abcdef", "12345", "1234567", "１２３４５６", "0" * 4000, "\ud800"])
def test_nonsense_is_no_code(code: str) -> None:
    assert step_of(b"s" * 20, code, 1_000_000.0) is None


async def test_each_code_counts_once(store: Store, clock: ManualClock) -> None:
    factors = Factors(store, Seal(KEY), clock)
    seed = await enrolled(factors, clock)
    code = shown(seed, clock)
    await factors.prove(ME, code)
    with pytest.raises(StepUpError, match="used before"):
        await factors.prove(ME, code)
    with pytest.raises(StepUpError, match="used before"):
        await factors.prove(ME, shown(seed, clock, -1))  # older than one that was used
    await factors.prove(ME, shown(seed, clock, 1))


async def test_of_fifty_at_once_one_is_let_through(store: Store, clock: ManualClock) -> None:
    factors = [Factors(store, Seal(KEY), clock) for _ in range(50)]
    seed = await enrolled(factors[0], clock)
    code = shown(seed, clock)
    found = await asyncio.gather(*(one.prove(ME, code) for one in factors), return_exceptions=True)
    assert sum(result is None for result in found) == 1
    assert all(result is None or isinstance(result, StepUpError) for result in found)


async def test_after_five_wrong_codes_one_waits_longer_each_time(store: Store, clock: ManualClock) -> None:
    factors = Factors(store, Seal(KEY), clock)
    seed = await enrolled(factors, clock)
    wrong = "000000" if shown(seed, clock) != "000000" else "111111"
    for _ in range(5):
        with pytest.raises(StepUpError, match="not right"):
            await factors.prove(ME, wrong)
    for pause in (30, 60, 120):
        with pytest.raises(StepUpError, match="too many") as refused:
            await factors.prove(ME, shown(seed, clock))  # not even the right one
        assert refused.value.retry_after == pytest.approx(pause, abs=1)
        clock.advance(pause)
        with pytest.raises(StepUpError, match="not right"):
            await factors.prove(ME, wrong)
    clock.advance(240)
    await factors.prove(ME, shown(seed, clock))
    clock.advance(30)
    await factors.prove(ME, shown(seed, clock))  # and all is forgotten


async def test_many_guesses_at_once_are_no_more_than_five(store: Store, clock: ManualClock) -> None:
    factors = Factors(store, Seal(KEY), clock)
    seed = await enrolled(factors, clock)
    guesses = [f"{number:06}" for number in range(40) if f"{number:06}" not in _good(seed, clock)]
    found = await asyncio.gather(*(factors.prove(ME, code) for code in guesses), return_exceptions=True)
    assert sum("not right" in str(error) for error in found) == 5


def _good(seed: bytes, clock: ManualClock) -> set[str]:
    return {shown(seed, clock, off) for off in (-1, 0, 1)}


async def test_what_is_stored_is_sealed_and_opens_for_its_user_alone(clock: ManualClock) -> None:
    store = MemoryStore(clock)
    factors = Factors(store, Seal(KEY), clock)
    seed = await enrolled(factors, clock)
    page = await store.query("default/factor")
    text = repr(page.records)
    assert base64.b32encode(seed).decode() not in text
    assert base64.b64encode(seed).decode() not in text
    sealed = page.records[0].fields["seed"]
    with pytest.raises(ConfigError, match="belongs elsewhere"):
        Seal(KEY).open(sealed, "default/factor/eve")
    with pytest.raises(ConfigError, match="sealed with a key"):
        Seal(OTHER).open(sealed, "default/factor/local")
    assert Seal(f"{OTHER} {KEY}").open(sealed, "default/factor/local") == seed
    assert Seal(f"{OTHER} {KEY}").close(seed, "x").split(".")[0] != sealed.split(".")[0]


def test_a_key_in_kms_never_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each secret has a key of its own, which KMS opens for what the secret belongs to, and for nothing else."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        kms = boto3.client("kms")
        made = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName="alias/sampan", TargetKeyId=made)
        seal = Seal("kms:alias/sampan")
        assert seal.remote
        one, two = seal.close(b"seed", "acme/ada"), seal.close(b"seed", "acme/ada")
        assert one.split(".")[1] != two.split(".")[1]
        assert seal.open(one, "acme/ada") == b"seed"
        assert (
            Seal(f"{KEY} kms:alias/sampan").open(one, "acme/ada") == b"seed"
        )  # a key may be changed for another
        for elsewhere in ("acme/eve", "other/ada"):
            with pytest.raises(ConfigError, match=r"KMS did not do|belongs elsewhere"):
                seal.open(one, elsewhere)
        with pytest.raises(ConfigError, match="sealed with a key"):
            Seal(KEY).open(one, "acme/ada")
        with pytest.raises(ConfigError, match="KMS did not do"):
            Seal("kms:alias/none").close(b"seed", "acme/ada")


async def test_a_factor_whose_seed_kms_keeps(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        made = boto3.client("kms").create_key()["KeyMetadata"]["KeyId"]
        factors = Factors(MemoryStore(clock), Seal(f"kms:{made}"), clock)
        seed = await enrolled(factors, clock)
        clock.advance(30)
        await factors.prove(ME, shown(seed, clock))


@pytest.mark.parametrize("keys", ["short", base64.b64encode(b"x" * 31).decode(), f"{KEY} nonsense"])
def test_a_key_that_is_none_ends_the_start(keys: str) -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        Seal(keys)


async def test_without_a_key_there_are_no_factors(clock: ManualClock) -> None:
    with pytest.raises(ConfigError, match="SAMPAN_SEAL_KEYS"):
        await Factors(MemoryStore(clock), Seal(""), clock).add(ME)


async def test_a_factor_counts_once_it_is_confirmed_and_is_replaced_by_removing_it(
    clock: ManualClock,
) -> None:
    factors = Factors(MemoryStore(clock), Seal(KEY), clock)
    first = seed_of(await factors.add(ME))
    with pytest.raises(StepUpError):
        await factors.prove(ME, shown(first, clock))
    assert not await factors.has(ME)
    second = seed_of(await factors.add(ME))  # thought better of it
    with pytest.raises(StepUpError):
        await factors.confirm(ME, shown(first, clock))
    await factors.confirm(ME, shown(second, clock))
    assert await factors.has(ME)
    with pytest.raises(ConflictError, match="remove"):
        await factors.add(ME)
    assert [one.user for one in await factors.list("default")] == ["local"]
    assert await factors.list("other") == []
    await factors.remove(ME)
    with pytest.raises(NotFoundError):
        await factors.remove(ME)


# An approval that needs one.


class Till:
    """A tool that pays, and counts."""

    def __init__(self) -> None:
        self.paid: list[int] = []

        @tool(effects="once", stepup=True)
        def refund(cents: int) -> str:
            """Pay back."""
            self.paid.append(cents)
            return "paid"

        self.tool = refund


@pytest.fixture
def till() -> Till:
    return Till()


@pytest.fixture
def app(till: Till, clock: ManualClock) -> App:
    script = [ToolCall("1", "refund", '{"cents": 10000}'), "You get ten cents back."]
    return build_app(
        Settings(store="memory", seal_keys=KEY),
        agents=[Agent(name="assistant", model=ScriptedModel(script), tools=[till.tool])],
        wire=ScriptedWire(),
        clock=clock,
    )


async def waiting(app: App) -> tuple[str, str]:
    run = await app.engine.answer(Inbound(messages=(Message.of("user", "Pay me back."),)))
    [question] = run.questions
    assert question.stepup
    return run.id, question.hash


async def test_over_http_the_challenge_says_what_is_asked(app: App, till: Till, clock: ManualClock) -> None:
    seed = await enrolled(app.door.stepup.factors, clock)
    run_id, digest = await waiting(app)
    transport = httpx.ASGITransport(app.asgi(own=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        approve: Callable[..., Any] = lambda **more: client.post(  # noqa: E731
            f"/api/v1/runs/{run_id}/approve", json={"hash": digest, **more}
        )
        refused = await approve()
        assert refused.status_code == 401
        challenge = refused.headers["www-authenticate"]
        assert 'error="insufficient_user_authentication"' in challenge
        assert 'acr_values="mfa"' in challenge
        asked = refused.json()["asked"]
        assert (asked["run_id"], asked["hash"], asked["tool"]) == (run_id, digest, "refund")
        assert json.loads(asked["arguments"]) == {"cents": 10000}  # the server's, whatever the model said
        wrong = await approve(code="000000" if shown(seed, clock) != "000000" else "111111")
        assert wrong.status_code == 401
        assert till.paid == []
        right = await approve(code=shown(seed, clock))
        assert right.status_code == 202
        await app.engine.drain()
        assert till.paid == [10000]
        again = await approve(code=shown(seed, clock, 1))
        assert again.status_code == 409
    assert (await app.engine.run(ME, run_id)).status == "succeeded"


async def test_a_no_needs_no_factor(app: App, till: Till) -> None:
    run_id, digest = await waiting(app)
    await app.engine.deny(ME, run_id, digest)
    await app.engine.drain()
    assert till.paid == []
    assert (await app.engine.run(ME, run_id)).status == "succeeded"


async def test_an_expired_question_uses_up_no_code(app: App, till: Till, clock: ManualClock) -> None:
    factors = app.door.stepup.factors
    seed = await enrolled(factors, clock)
    run_id, digest = await waiting(app)
    clock.advance(301)
    with pytest.raises(ConflictError, match="expired"):
        await app.engine.approve(ME, run_id, digest, code=shown(seed, clock))
    await factors.prove(ME, shown(seed, clock))
    assert till.paid == []


async def test_another_users_code_is_no_good(app: App, till: Till, clock: ManualClock) -> None:
    factors = app.door.stepup.factors
    seed = await enrolled(factors, clock, Principal(user="eve"))
    run_id, digest = await waiting(app)
    with pytest.raises(StepUpError):
        await app.engine.approve(ME, run_id, digest, code=shown(seed, clock))
    with pytest.raises(NotFoundError):
        await app.engine.approve(Principal(user="eve"), run_id, digest, code=shown(seed, clock))
    assert till.paid == []
