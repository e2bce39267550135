"""API keys: shown once, kept as a hash, rotated with an overlap, ended for good."""

from __future__ import annotations

import re

import msgspec
import pytest

from agent_core import Principal
from agent_core.errors import ConflictError, InputError, NotFoundError
from agent_core.security.keys import CACHE_SECONDS, Keys
from agent_core.store.memory import MemoryStore
from agent_core.testing import CountingStore, ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def keys(store: MemoryStore, clock: ManualClock) -> Keys:
    return Keys(store, clock)


async def test_a_key_is_found_by_its_text_alone(keys: Keys) -> None:
    who = Principal(tenant="acme", user="ada", scopes=("agents:run",))
    key, text = await keys.create("the shop", principal=who)
    assert re.fullmatch(r"sampan_[0-9a-z]{12}_[0-9a-z]{52}", text)
    found = await keys.find(text)
    assert found == key
    assert found.principal == who
    other, _ = await keys.create()
    secret = text.rpartition("_")[2]
    for wrong in (
        text[:-1],
        text[:-1] + ("0" if text[-1] != "0" else "1"),
        text + "0",
        text.upper(),
        "",
        "sampan_",
    ):
        assert await keys.find(wrong) is None
    assert await keys.find(f"sampan_{other.id}_{secret}") is None


async def test_the_secret_is_nowhere_in_the_store(keys: Keys, store: MemoryStore) -> None:
    key, text = await keys.create("k")
    _, rotated = await keys.rotate(key.id)
    kept = repr(store._rows)
    for secret in (text, rotated):
        assert secret.rpartition("_")[2] not in kept
    assert key.digest in kept


async def test_two_keys_share_nothing(keys: Keys) -> None:
    texts = {(await keys.create())[1] for _ in range(200)}
    assert (
        len({text.rpartition("_")[2] for text in texts}) == len({text.split("_")[1] for text in texts}) == 200
    )


async def test_an_expired_key_opens_nothing(keys: Keys, clock: ManualClock) -> None:
    _, text = await keys.create(seconds=60)
    clock.advance(59)
    assert await keys.find(text)
    clock.advance(1)
    assert await keys.find(text) is None


async def test_both_secrets_open_during_the_overlap(keys: Keys, clock: ManualClock) -> None:
    key, old = await keys.create()
    rotated, new = await keys.rotate(key.id, overlap=3600)
    assert rotated.id == key.id
    assert old != new
    assert await keys.find(old)
    assert await keys.find(new)
    clock.advance(3600)
    assert await keys.find(old) is None
    assert await keys.find(new)


async def test_a_second_rotation_ends_the_first_secret(keys: Keys) -> None:
    key, first = await keys.create()
    _, second = await keys.rotate(key.id)
    _, third = await keys.rotate(key.id)
    assert [bool(await keys.find(text)) for text in (first, second, third)] == [False, True, True]


async def test_rotation_without_overlap_is_at_once(keys: Keys) -> None:
    key, old = await keys.create()
    await keys.rotate(key.id, overlap=0)
    assert await keys.find(old) is None


async def test_a_revoked_key_ends_everywhere_within_five_seconds(
    store: MemoryStore, clock: ManualClock
) -> None:
    here, elsewhere = Keys(store, clock), Keys(store, clock)
    key, text = await here.create()
    assert await elsewhere.find(text)
    await here.revoke(key.id)
    assert await here.find(text) is None
    clock.advance(CACHE_SECONDS)
    assert await elsewhere.find(text) is None
    assert (await here.revoke(key.id)).revoked_at
    with pytest.raises(ConflictError, match="ended"):
        await here.rotate(key.id)


async def test_a_key_that_was_seen_costs_no_round_trip(clock: ManualClock) -> None:
    store = CountingStore(MemoryStore(clock))
    keys = Keys(store, clock)
    _, text = await keys.create()
    await keys.find(text)
    before = sum(store.trips.values())
    for _ in range(5):
        assert await keys.find(text)
    assert sum(store.trips.values()) == before


async def test_a_tenant_sees_and_ends_its_own_keys_alone(keys: Keys, clock: ManualClock) -> None:
    mine = []
    for user in ("ada", "bob"):
        mine.append((await keys.create(user, principal=Principal(tenant="acme", user=user)))[0])
        clock.advance(1)
    theirs, _ = await keys.create(principal=Principal(tenant="other", user="eve"))
    assert await keys.list("acme") == mine
    for verb in (keys.rotate, keys.revoke):
        with pytest.raises(NotFoundError, match="no key"):
            await verb(theirs.id, tenant="acme")
    assert await keys.get(theirs.id) == theirs


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"principal": Principal(scopes=("agents:fly",))}, "scopes"),
        ({"principal": Principal(tenant="")}, "tenant"),
        ({"principal": Principal(tenant="a/b")}, "tenant"),
        ({"principal": Principal(user="a b")}, "user"),
        ({"rate": "many"}, "rate"),
        ({"rate": "0/minute"}, "rate"),
        ({"seconds": -1.0}, "seconds"),
    ],
)
async def test_what_is_wrong_is_named(keys: Keys, store: MemoryStore, options: dict, field: str) -> None:
    with pytest.raises(InputError) as raised:
        await keys.create(**options)
    assert raised.value.field == field
    assert not store._rows


async def test_keys_of_today_are_read_for_ever(keys: Keys, store: MemoryStore) -> None:
    """What is stored now, so that a change of the record does not lock everybody out."""
    key, _ = await keys.create("n", principal=Principal(tenant="t", user="u"), seconds=9, rate="5/second")
    [body] = [msgspec.json.decode(row.body) for place, row in store._rows.items() if place.sort == "key"]
    assert set(body) == {
        "v",
        "id",
        "name",
        "tenant",
        "user",
        "scopes",
        "digest",
        "made_at",
        "expires_at",
        "rate",
    }
    assert body["digest"] == key.digest
