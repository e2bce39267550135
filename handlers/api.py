"""Triggered by HTTP (API Gateway's HTTP API or REST API, a function URL): the whole HTTP surface, answered at once.

An answer that the platform gives no time for is 202 with the address of its run; a worker of the queue goes on with it.
"""

from __future__ import annotations

from typing import Any

from handlers import _http


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request."""
    return _http.answer(event, context)
