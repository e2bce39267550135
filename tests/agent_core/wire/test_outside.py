"""A wire for addresses that others name: looked up once, checked, pinned."""

from __future__ import annotations

import asyncio
import socket

import pytest

from agent_core.errors import ConnectError, ForbiddenAddressError, StalledError
from agent_core.testing import ScriptedWire
from agent_core.wire.base import Request, Timeouts
from agent_core.wire.outside import OutsideWire, system_resolver
from agent_core.wire.reach import Reach
from agent_core.wire.scripted import Answer


class Names:
    """A resolver of names that answers from a list, one after the other; the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def get(url: str) -> Request:
    return Request(method="GET", url=url, timeouts=Timeouts(connect=0.05))


async def test_the_address_that_was_checked_is_the_one_that_is_called() -> None:
    names, inner = (
        Names(["93.184.216.34", "2606:4700::1111"], ["127.0.0.1"]),
        ScriptedWire([Answer(), Answer()]),
    )
    wire = OutsideWire(inner, Reach(), resolver=names)
    await wire.send(get("HTTPS://Example.com/a#b"))
    assert names.asked == [("example.com", 443)]
    assert [(sent.url, sent.address) for sent in inner.requests] == [
        ("https://example.com/a", "93.184.216.34")
    ]
    with pytest.raises(
        ForbiddenAddressError, match=r"leads to 127\.0\.0\.1"
    ):  # the name server's second word
        await wire.send(get("https://example.com/a"))
    with pytest.raises(ForbiddenAddressError):
        async with wire.stream(get("https://example.com/a")):
            pass
    assert inner.left == 1
    await wire.close()
    assert inner.closed


async def test_addresses_in_urls_are_not_looked_up() -> None:
    names, inner = Names(["127.0.0.1"]), ScriptedWire([Answer(), Answer(body=b"x")])
    wire = OutsideWire(inner, Reach(), resolver=names)
    await wire.send(get("http://8.8.8.8/"))
    async with wire.stream(get("http://[2606:4700::1111]/")) as answer:
        assert await answer.read() == b"x"
    assert [sent.address for sent in inner.requests] == ["8.8.8.8", "2606:4700::1111"]
    assert names.asked == []


async def test_a_name_that_leads_nowhere_or_takes_too_long() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def slow(host: str, port: int) -> list[str]:
        await asyncio.get_running_loop().create_future()
        return []

    with pytest.raises(ConnectError, match="not found"):
        await OutsideWire(ScriptedWire(), Reach(), resolver=unknown).send(get("https://example.com/"))
    with pytest.raises(StalledError) as caught:
        await OutsideWire(ScriptedWire(), Reach(), resolver=slow).send(get("https://example.com/"))
    assert caught.value.timeout == "connect"
    with pytest.raises(ForbiddenAddressError):
        await OutsideWire(ScriptedWire(), Reach(), resolver=Names([])).send(get("https://example.com/"))


async def test_the_systems_resolver_gives_all_addresses() -> None:
    assert "127.0.0.1" in await system_resolver("localhost", 80)
