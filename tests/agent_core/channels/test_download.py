"""Files that lie elsewhere: the service sends us on, and we go only where anybody may."""

from __future__ import annotations

import pytest

from agent_core.channels.base import Channel, Options
from agent_core.errors import AgentError
from agent_core.testing import ManualClock, ScriptedWire
from agent_core.wire.scripted import Answer


def channel(*answers: Answer) -> tuple[Channel, ScriptedWire]:
    wire = ScriptedWire(answers)
    return Channel("files", Options(), wire=wire, clock=ManualClock()), wire


async def test_a_token_is_for_the_service_alone() -> None:
    moved = Answer(status=302, headers={"location": "https://93.184.216.34/cat.png"})
    found, wire = channel(moved, Answer(body=b"cat", headers={"content-type": "image/png"}))
    blob = await found.download("https://service.example/1", "the file", {"authorization": "Bearer x"})
    assert (blob.data, blob.media_type) == (b"cat", "image/png")
    assert "authorization" in wire.requests[0].headers
    assert "authorization" not in wire.requests[1].headers


@pytest.mark.parametrize(
    "there",
    [
        "https://169.254.169.254/latest/meta-data",
        "https://127.0.0.1/",
        "https://10.0.0.7/",
        "https://[::1]/",
        "https://vault.internal/",
        "http://93.184.216.34/",
        "",
    ],
)
async def test_we_are_not_sent_inside(there: str) -> None:
    found, wire = channel(Answer(status=302, headers={"location": there}))
    with pytest.raises(AgentError):
        await found.download("https://service.example/1", "the file")
    assert len(wire.requests) == 1
