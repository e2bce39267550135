"""Passkeys: each challenge counts once, for its subject, its user and its site; all else is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.errors import InputError, NotFoundError, StepUpError
from agent_core.messages import Principal
from agent_core.security.passkeys import MOST, Passkeys, Site
from agent_core.store.base import Store
from agent_core.store.memory import MemoryStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import ManualClock
from tests.agent_core.security.softkey import PRESENT, SoftKey
from tests.aws.emulator import Emulator

ADA = Principal(tenant="acme", user="ada")
EVE = Principal(tenant="acme", user="eve")
ORIGIN = "https://agents.example.com"
SITE = Site.of(f"{ORIGIN}/console")


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


async def registered(passkeys: Passkeys, who: Principal = ADA, name: str = "laptop") -> SoftKey:
    key = SoftKey()
    options = await passkeys.begin(who, SITE)
    await passkeys.register(who, key.make(options, ORIGIN), name)
    return key


def test_a_site_is_a_host_and_an_origin() -> None:
    assert Site.of("https://a.example:8443/x") == Site("a.example", "https://a.example:8443")


async def test_made_used_listed_and_removed(store: Store, clock: ManualClock) -> None:
    passkeys = Passkeys(store, clock)
    key = await registered(passkeys)
    for n in (1, 2):
        await passkeys.prove(ADA, key.sign(await passkeys.ask(ADA, SITE, "pay"), ORIGIN), "pay")
        [stored] = await passkeys.list(ADA)
        assert (stored.name, stored.used) == ("laptop", n)
    assert await passkeys.list(EVE) == []
    options = await passkeys.begin(ADA, SITE)
    assert [one["id"] for one in options["excludeCredentials"]] == [stored.id]
    assert options["authenticatorSelection"]["userVerification"] == "required"
    with pytest.raises(NotFoundError):
        await passkeys.remove(EVE, stored.id)
    await passkeys.remove(ADA, stored.id)
    with pytest.raises(NotFoundError):
        await passkeys.remove(ADA, stored.id)
    with pytest.raises(StepUpError):
        await passkeys.prove(ADA, key.sign(await passkeys.ask(ADA, SITE, "pay"), ORIGIN), "pay")


async def test_of_fifty_at_once_one_counts(store: Store, clock: ManualClock) -> None:
    passkeys = Passkeys(store, clock)
    key = await registered(passkeys)
    signed = key.sign(await passkeys.ask(ADA, SITE, "pay"), ORIGIN)
    tries = (Passkeys(store, clock).prove(ADA, signed, "pay") for _ in range(50))
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert all(isinstance(outcome, StepUpError) for outcome in outcomes if outcome is not None)


async def test_what_is_not_as_it_was_asked_for_is_refused(clock: ManualClock) -> None:
    passkeys = Passkeys(MemoryStore(clock), clock)
    key = await registered(passkeys)
    evil = await registered(passkeys, EVE)

    async def refused(who: Principal, credential: str, subject: str) -> None:
        with pytest.raises(StepUpError):
            await passkeys.prove(who, credential, subject)

    async def asked(who: Principal = ADA, subject: str = "pay") -> dict[str, Any]:
        return await passkeys.ask(who, SITE, subject)

    await refused(ADA, key.sign(await asked(subject="look"), ORIGIN), "pay")  # for something else
    await refused(ADA, evil.sign(await asked(), ORIGIN), "pay")  # another's key
    await refused(ADA, evil.sign(await asked(EVE), ORIGIN), "pay")  # another's challenge, too
    await refused(ADA, key.sign(await asked(), "https://evil.example"), "pay")  # on another page
    await refused(ADA, key.sign({**await asked(), "rpId": "evil.example"}, ORIGIN), "pay")  # for another site
    await refused(ADA, key.sign({**await asked(), "challenge": "AAAA"}, ORIGIN), "pay")  # never asked
    begun = await passkeys.begin(ADA, SITE)
    await refused(ADA, key.sign({"rpId": SITE.id, "challenge": begun["challenge"]}, ORIGIN), "pay")

    late = await asked()
    clock.advance(301)
    await refused(ADA, key.sign(late, ORIGIN), "pay")

    key.flags = PRESENT  # nobody showed it a finger
    await refused(ADA, key.sign(await asked(), ORIGIN), "pay")
    key.flags |= 0x04
    await passkeys.prove(ADA, key.sign(await asked(), ORIGIN), "pay")
    key.used = 1  # a copy of the key, which counts for itself
    await refused(ADA, key.sign(await asked(), ORIGIN), "pay")


async def test_a_new_one_must_be_what_was_asked_for(clock: ManualClock) -> None:
    passkeys = Passkeys(MemoryStore(clock), clock)
    for origin, change in (
        ("https://evil.example", {}),
        (ORIGIN, {"rp": {"id": "evil.example"}}),
        (ORIGIN, {"challenge": "AAAA"}),
    ):
        options = {**await passkeys.begin(ADA, SITE), **change}
        with pytest.raises(StepUpError):
            await passkeys.register(ADA, SoftKey().make(options, origin), "x")
    unseen = SoftKey()
    unseen.flags = PRESENT
    with pytest.raises(StepUpError):
        await passkeys.register(ADA, unseen.make(await passkeys.begin(ADA, SITE), ORIGIN), "x")
    asked = await passkeys.ask(ADA, SITE, "pay")
    with pytest.raises(StepUpError):  # what was asked for something else makes no key
        await passkeys.register(
            ADA, SoftKey().make({"rp": {"id": SITE.id}, "challenge": asked["challenge"]}, ORIGIN), "x"
        )
    assert await passkeys.list(ADA) == []


async def test_many_challenges_hide_no_passkey(clock: ManualClock) -> None:
    """Whoever has a login may ask as often as they like; it must not look then as if there were no factor."""
    store = MemoryStore(clock)
    passkeys = Passkeys(store, clock)
    for _ in range(MOST):
        await registered(passkeys)
    for _ in range(1100):
        await passkeys._ask(ADA, SITE, "pay")
    assert len(await passkeys.list(ADA)) == MOST


async def test_there_are_not_too_many(clock: ManualClock) -> None:
    passkeys = Passkeys(MemoryStore(clock), clock)
    for _ in range(MOST):
        await registered(passkeys)
    with pytest.raises(InputError, match="at most"):
        await passkeys.begin(ADA, SITE)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["id", "rawId", "type", "response", "clientDataJSON", "challenge", "signature"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ).map(json.dumps)
    | st.text(max_size=40)
)
def test_nonsense_is_refused_and_raises_nothing_else(nonsense: str) -> None:
    async def run() -> None:
        clock = ManualClock()
        passkeys = Passkeys(MemoryStore(clock), clock)
        with pytest.raises(StepUpError):
            await passkeys.prove(ADA, nonsense, "pay")
        with pytest.raises(StepUpError):
            await passkeys.register(ADA, nonsense, "x")

    asyncio.run(run())
