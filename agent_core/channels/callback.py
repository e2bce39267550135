"""Callbacks: the end of a run is sent to an address of the caller's, signed by Standard Webhooks."""

from __future__ import annotations

from typing import Any

import msgspec

from agent_core.clock import Clock
from agent_core.costs.ledger import dollars
from agent_core.engine.runs import Delivery, Run
from agent_core.errors import AgentError, WireError
from agent_core.security.signatures import standard_headers, standard_key
from agent_core.wire.base import Request, Timeouts, Wire

TIMEOUTS = Timeouts(connect=5.0, first_byte=15.0, between_chunks=5.0, total=20.0)


class GoneError(AgentError):
    """The receiver wants no more of these (410)."""

    slug, title = "callback-gone", "The receiver of callbacks is gone"


class Callback:
    """Delivers to an https address, by a wire that checks where it leads to (OutsideWire).

    The id of the webhook is the run's, the same for every try, so that a receiver can tell a repetition.
    """

    def __init__(self, wire: Wire, clock: Clock, secret: str) -> None:
        standard_key(secret)
        self._wire = wire
        self._clock = clock
        self._secret = secret

    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        """Send the end of the run; an answer of 2xx is arrival, 410 means never again, all else is tried again."""
        body = msgspec.json.encode(
            {"type": f"run.{run.status}", "timestamp": run.finished_at, "data": _data(run)}
        )
        headers = standard_headers(self._secret, push_id, int(self._clock.now()), body)
        answer = await self._wire.send(
            Request(
                method="POST",
                url=delivery.address,
                headers={"content-type": "application/json", **headers},
                body=body,
                timeouts=TIMEOUTS,
            )
        )
        if answer.status == 410:
            raise GoneError(f"{delivery.address} answered 410: it wants no more")
        if not 200 <= answer.status < 300:
            raise WireError(f"{delivery.address} answered {answer.status}")


def _data(run: Run) -> dict[str, Any]:
    failure = run.failure and {
        "type": run.failure.slug,
        "title": run.failure.title,
        "detail": run.failure.detail,
    }
    return {
        "run_id": run.id,
        "session_id": run.session_id,
        "agent": run.agent,
        "status": run.status,
        "reply": None if run.reply is None else {"text": run.reply.text},
        "failure": failure,
        "usage": msgspec.to_builtins(run.usage),
        "cost": {"usd": dollars(run.cost), "known": not run.unpriced},
        "metadata": run.metadata,
    }
