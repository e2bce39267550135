"""Triggered by HTTP at /webhooks/{channel}: chat services and others that tell us something.

The same app as `api`, in a function of its own, so that a burst of one does not hold up the other, and with rights of
its own. A webhook is acknowledged as soon as its message is accepted; a worker of the queue answers it.
"""

from __future__ import annotations

from typing import Any

from handlers import _http


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request."""
    return _http.answer(event, context)
