"""Providers' batch endpoints on loopback, refusing what the provider would, and an app that uses them."""

from __future__ import annotations

import email
import email.policy
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_core import Agent, Principal, Settings, build_app
from agent_core.app import App
from agent_core.batches.records import Batch
from agent_core.batches.service import Options
from agent_core.testing import ManualClock

ME = Principal()
CREATED = 1_750_000_000.0
"""When all jobs were made: when the clock of the tests begins."""

LOOKS = 2
"""How often a job is looked at before it has ended."""


def refuse(words: str, status: int = 400) -> JSONResponse:
    return JSONResponse({"error": {"message": words, "type": "invalid_request_error"}}, status)


class Provider:
    """Both providers' endpoints. Messages with `broken` fail, with `late` expire; `calls` are ordinary ones."""

    def __init__(self, *, batches: bool = True) -> None:
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.looks = 0
        self.cut = 0
        """How many jobs are made whose answer is lost on the way."""
        self.page = 2
        """Jobs on a page of the list of jobs."""
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/messages", self.message, methods=["POST"]),
        ]
        if batches:
            routes += [
                Route("/v1/files", self.file, methods=["POST"]),
                Route("/v1/files/{name}/content", self.content),
                Route("/v1/batches", self.make, methods=["POST"]),
                Route("/v1/batches", self.listed),
                Route("/v1/batches/{name}", self.look),
                Route("/v1/batches/{name}/cancel", self.cancel, methods=["POST"]),
                Route("/v1/messages/batches", self.make_messages, methods=["POST"]),
                Route("/v1/messages/batches", self.listed_messages),
                Route("/v1/messages/batches/{name}", self.look_messages),
                Route("/v1/messages/batches/{name}/results", self.results),
            ]
        self.app = Starlette(routes=routes)

    # OpenAI

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        said = body["messages"][-1]["content"]
        message = {"role": "assistant", "content": said.upper()}
        usage = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {
            "id": "c",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.calls.append(body["messages"][-1]["content"])
        return JSONResponse(self.answer(body))

    async def file(self, request: Request) -> Response:
        if request.headers["authorization"] != "Bearer secret":
            return refuse("bad key", 401)
        head = b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
        form = email.message_from_bytes(head + await request.body(), policy=email.policy.HTTP)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
        if parts["purpose"].get_content().strip() != "batch" or not parts["file"].get_filename().endswith(
            ".jsonl"
        ):
            return refuse("no batch file")
        name = f"file-{len(self.files)}"
        self.files[name] = parts["file"].get_payload(decode=True)
        return JSONResponse({"id": name, "object": "file", "purpose": "batch"})

    async def make(self, request: Request) -> Response:
        wanted = await request.json()
        if wanted["completion_window"] != "24h" or wanted["endpoint"] != "/v1/chat/completions":
            return refuse("no such window or endpoint")
        lines = [json.loads(line) for line in self.files[wanted["input_file_id"]].splitlines()]
        if len({line["custom_id"] for line in lines}) != len(lines) or not lines:
            return refuse("custom_id is not unique")
        for line in lines:
            good = (
                line["method"] == "POST"
                and line["url"] == wanted["endpoint"]
                and set(line["body"]) >= {"model"}
            )
            if not good or line["body"].get("stream"):
                return refuse(f"bad line {line}")
        name = f"batch_{len(self.jobs)}"
        self.jobs[name] = {"lines": lines, "looks": 0, "metadata": wanted["metadata"]}
        return self.made() or JSONResponse(self.shown(name, "validating"))

    def made(self) -> Response | None:
        """What is told instead of the job, where the answer is lost on the way."""
        if self.cut:
            self.cut -= 1
            return JSONResponse({"error": {"message": "lost"}}, 500)
        return None

    def shown(self, name: str, status: str, **more: Any) -> dict[str, Any]:
        metadata = self.jobs[name]["metadata"]
        return {
            "id": name,
            "object": "batch",
            "status": status,
            "metadata": metadata,
            "created_at": int(CREATED),
            **more,
        }

    async def listed(self, request: Request) -> Response:
        names, more = self.paged(request.query_params.get("after"))
        return JSONResponse({"data": [self.shown(name, "in_progress") for name in names], "has_more": more})

    def paged(self, after: str | None) -> tuple[list[str], bool]:
        """A page of the jobs, newest first."""
        names = [*self.jobs][::-1]
        rest = names[names.index(after) + 1 :] if after else names
        return rest[: self.page], len(rest) > self.page

    async def cancel(self, request: Request) -> Response:
        self.jobs[request.path_params["name"]]["looks"] = LOOKS
        return JSONResponse(self.shown(request.path_params["name"], "cancelling"))

    async def look(self, request: Request) -> Response:
        self.looks += 1
        name = request.path_params["name"]
        job = self.jobs[name]
        job["looks"] += 1
        if job["looks"] < LOOKS:
            return JSONResponse(self.shown(name, "in_progress", output_file_id=None))
        good, bad = [], []
        for line in job["lines"]:
            text = line["body"]["messages"][-1]["content"]
            if "broken" in text:
                response = {"status_code": 400, "request_id": "r", "body": {"error": {"message": "no"}}}
                bad.append({"id": "b", "custom_id": line["custom_id"], "response": response, "error": None})
            elif "late" in text:
                error = {"code": "batch_expired", "message": "late"}
                bad.append({"id": "b", "custom_id": line["custom_id"], "response": None, "error": error})
            else:
                response = {"status_code": 200, "request_id": "r", "body": self.answer(line["body"])}
                good.append({"id": "b", "custom_id": line["custom_id"], "response": response, "error": None})
        self.files[f"{name}-out"] = b"".join(json.dumps(line).encode() + b"\n" for line in good[::-1])
        self.files[f"{name}-bad"] = b"".join(json.dumps(line).encode() + b"\n" for line in bad)
        files = {"output_file_id": f"{name}-out", "error_file_id": f"{name}-bad" if bad else None}
        return JSONResponse(self.shown(name, "expired" if bad else "completed", **files))

    async def content(self, request: Request) -> Response:
        return Response(self.files[request.path_params["name"]])

    # Anthropic

    def said(self, params: dict[str, Any]) -> str:
        content = params["messages"][-1]["content"]
        return content if isinstance(content, str) else "".join(part["text"] for part in content)

    def claude(self, params: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": "msg",
            "type": "message",
            "role": "assistant",
            "model": params["model"],
            "content": [{"type": "text", "text": self.said(params).upper()}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 1000, "output_tokens": 500},
        }

    async def message(self, request: Request) -> Response:
        params = await request.json()
        self.calls.append(self.said(params))
        return JSONResponse(self.claude(params))

    async def make_messages(self, request: Request) -> Response:
        if request.headers["x-api-key"] != "secret" or request.headers["anthropic-version"] != "2023-06-01":
            return refuse("bad key", 401)
        requests = (await request.json())["requests"]
        names = [one["custom_id"] for one in requests]
        good = all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", name) for name in names) and len({*names}) == len(
            names
        )
        if not good or any({"model", "max_tokens", "messages"} - set(one["params"]) for one in requests):
            return refuse("bad request")
        name = f"msgbatch_{len(self.jobs)}"
        self.jobs[name] = {"lines": requests, "looks": 0}
        return self.made() or JSONResponse(self.shown_messages(name))

    def shown_messages(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        ended = job["looks"] >= LOOKS
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts["succeeded" if ended else "processing"] = len(job["lines"])
        return {
            "id": name,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "created_at": datetime.fromtimestamp(CREATED, UTC).isoformat(),
            "request_counts": counts,
        }

    async def listed_messages(self, request: Request) -> Response:
        names, more = self.paged(request.query_params.get("after_id"))
        return JSONResponse({"data": [self.shown_messages(name) for name in names], "has_more": more})

    async def look_messages(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.jobs[name]["looks"] += 1
        return JSONResponse(self.shown_messages(name))

    async def results(self, request: Request) -> Response:
        lines = []
        for one in self.jobs[request.path_params["name"]]["lines"][::-1]:
            result: dict[str, Any] = {"type": "succeeded", "message": self.claude(one["params"])}
            if "broken" in self.said(one["params"]):
                result = {"type": "errored", "error": {"type": "error", "error": {"message": "no"}}}
            elif "late" in self.said(one["params"]):
                result = {"type": "expired"}
            lines.append(json.dumps({"custom_id": one["custom_id"], "result": result}))
        return Response("\n".join(lines))

    @contextmanager
    def served(self) -> Iterator[int]:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(self.app, ws="none", lifespan="off", log_level="warning", loop="asyncio")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            listener.close()


PRICES = json.dumps({"openai:some*": {"input": 1, "output": 2}, "anthropic:some*": {"input": 1, "output": 2}})
FULL = 1000 * 1000 + 500 * 2000
"""Nano-dollars of one ordinary call."""


class World:
    """An app, and a clock; with `store="sqlite"` another process may have begun in the same folder."""

    def __init__(
        self,
        port: int,
        provider: str,
        tmp_path: Any,
        *,
        store: str = "memory",
        later: float = 0.0,
        **agent: Any,
    ) -> None:
        path = "/v1" if provider == "openai" else ""
        prices = tmp_path / "prices.json"
        prices.write_text(PRICES)
        self.clock = ManualClock(CREATED + later)
        self.app: App = build_app(
            Settings(
                store=store,
                data=str(tmp_path / "data"),
                model_api_key="secret",
                prices=str(prices),
                model_retries=0,
            ),
            agents=[
                Agent(name="assistant", model=f"{provider}@http://127.0.0.1:{port}{path}:some-model", **agent)
            ],
            clock=self.clock,
        )

    async def submitted(self, *texts: str, **options: Any) -> Batch:
        async def lines() -> Any:
            yield b"".join(json.dumps({"message": text}).encode() + b"\n" for text in texts)

        options = {"deadline": "24h"} | options
        batch, _ = await self.app.batches.submit(ME, Options(**options), lines())
        await self.app.batches.drain()
        return batch

    async def later(self, batch: Batch, seconds: float = 61) -> Batch:
        self.clock.advance(seconds)
        await self.app.engine.sweep()
        await self.app.batches.drain()
        return await self.app.batches.get(ME, batch.id)

    async def results(self, batch: Batch) -> list[dict[str, Any]]:
        data = b"".join([piece async for piece in self.app.batches.results(batch)])
        return [json.loads(line) for line in data.splitlines()]
