"""Triggered by a function URL, or by a REST API's streaming route: the whole HTTP surface, each piece when it is there.

Lambda's managed Python runtime answers in one piece only. So this is a runtime of its own: AWS_LAMBDA_EXEC_WRAPPER
names `deploy/aws/streaming`, which starts it in the managed one's place. A client that leaves does not cancel its run;
near the platform's deadline the run is handed over, and the stream ends with the id that it goes on from.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import msgspec

from agent_core.errors import AgentError, MalformedError
from handlers import _http, _shared
from handlers._runtime import Context, Exchange, Failed, Invocation, RuntimeApi

log = logging.getLogger("sampan.stream")

BETWEEN = b"\0" * 8
"""What parts the head of an answer, which is JSON, from its body."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer in one piece: for whoever calls this in the managed runtime."""
    return _http.answer(event, context)


def main(address: str) -> None:
    """Handle events for ever."""
    current = _log()
    api = RuntimeApi(address)
    loop = _shared.loop()
    try:
        _shared.asgi()
    except Exception as error:  # the outermost boundary of a start: the platform is told, and tries anew
        log.exception("the function can't start")
        loop.run_until_complete(api.fail_to_start(_failure(error)))
        sys.exit(1)
    while True:
        invocation = loop.run_until_complete(api.next())
        current.id = invocation.id
        loop.run_until_complete(handle(api, invocation))


async def handle(api: RuntimeApi, invocation: Invocation) -> None:
    """Answer one event."""
    answer = Answer(api, invocation)
    try:
        try:
            event = msgspec.json.decode(invocation.event)
            request = _http.asked(event, Context(invocation, _shared.app().clock))
        except MalformedError as error:
            await answer.refuse(error)
        else:
            await answer.through(*request)
    except Exception as error:  # the outermost boundary of an invocation: the platform counts it as failed
        log.exception("invocation failed")
        await answer.fail(_failure(error))
    finally:
        await answer.ended()


class Answer:
    """The answer to one event: what an ASGI app sends goes out piece by piece."""

    def __init__(self, api: RuntimeApi, invocation: Invocation) -> None:
        self._api = api
        self._id = invocation.id
        self._head: dict[str, Any] = {}
        self._exchange: Exchange | None = None
        self._peer: asyncio.Task[Any] | None = None
        self._over = False
        self._gone = asyncio.Event()

    async def through(self, scope: dict[str, Any], body: bytes) -> None:
        """Have the app answer a request."""
        parts = [body]

        async def receive() -> dict[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        await _http.serve(scope, receive, self.send)

    async def refuse(self, error: AgentError) -> None:
        """Answer a request that can't even be given to the app."""
        refusal = _http.refusal(error)
        self._head = {"statusCode": refusal["statusCode"], "headers": refusal["headers"], "cookies": []}
        await self._send(refusal["body"].encode(), last=True)

    async def send(self, message: Any) -> None:
        """Take a message of the app. To a client that has left, nothing is sent."""
        if message["type"] == "http.response.start":
            self._head = head_of(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body":
            await self._send(message.get("body", b""), last=not message.get("more_body", False))

    async def fail(self, failure: Failed) -> None:
        """Tell the platform that the answer is none, or has no end."""
        if self._exchange is None:
            await self._api.fail(self._id, failure)
        elif not self._over and not self._gone.is_set():
            self._over = True
            await self._out(self._exchange.end(failure))

    async def ended(self) -> None:
        """Wait until the platform has all of it."""
        if self._peer is not None:
            if not self._over:
                self._peer.cancel()  # the app never ended its answer
            await asyncio.wait({self._peer})

    async def _send(self, body: bytes, *, last: bool) -> None:
        if self._over or self._gone.is_set():
            return
        self._over = last
        if self._exchange is None:
            self._exchange = await self._api.respond(self._id)
            self._peer = asyncio.ensure_future(self._listen(self._exchange))
            body = msgspec.json.encode(self._head) + BETWEEN + body
        if body:
            await self._out(self._exchange.send(body))
        if last:
            await self._out(self._exchange.end())

    async def _out(self, sending: Any) -> None:
        try:
            await sending
        except OSError:
            self._gone.set()

    async def _listen(self, exchange: Exchange) -> None:
        """Wait for what the platform says: all is well at the end, anything before means that nobody listens."""
        try:
            answer, _ = await exchange.answer()
        except OSError:
            log.info("invocation=<%s> | the client left; its run goes on", self._id)
        else:
            if answer.status_code >= 300:
                log.warning("invocation=<%s>, status=<%d> | answer refused", self._id, answer.status_code)
        finally:
            self._gone.set()


def head_of(status: int, headers: Any) -> dict[str, Any]:
    """Status, headers and cookies as the platform wants them before the body. Repeated headers are one list."""
    found: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "set-cookie":
            cookies.append(value)
        else:
            found[name] = f"{found[name]}, {value}" if name in found else value
    return {"statusCode": status, "headers": found, "cookies": cookies}


def _failure(error: Exception) -> Failed:
    """What the platform is told; an unexpected error's words stay in our log."""
    words = error.detail if isinstance(error, AgentError) else "an unexpected error; the log has it"
    return Failed(f"Function.{type(error).__name__}", words)


class _Current(logging.Filter):
    """Puts the invocation's id into each line of the log."""

    id = "-"

    def filter(self, record: logging.LogRecord) -> bool:
        record.invocation = self.id
        return True


def _log() -> _Current:
    """Lines as the managed runtime writes them."""
    current = _Current()
    lines = logging.StreamHandler(sys.stdout)
    lines.addFilter(current)
    lines.setFormatter(
        logging.Formatter("[%(levelname)s]\t%(asctime)s\t%(invocation)s\t%(name)s %(message)s")
    )
    logging.basicConfig(handlers=[lines])
    return current


if __name__ == "__main__":
    main(sys.argv[1])
