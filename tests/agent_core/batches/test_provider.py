"""Batches through a provider's own batch endpoint, at a server on loopback that refuses what the provider would."""

from __future__ import annotations

import email
import email.policy
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_core import Agent, Principal, Settings, build_app, tool
from agent_core.app import App
from agent_core.batches.records import Batch
from agent_core.batches.service import Options
from agent_core.testing import ManualClock

ME = Principal()
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
        if self.cut:
            self.cut -= 1
            return JSONResponse({"error": {"message": "lost"}}, 500)
        return JSONResponse(self.shown(name, "validating"))

    def shown(self, name: str, status: str, **more: Any) -> dict[str, Any]:
        metadata = self.jobs[name]["metadata"]
        return {"id": name, "object": "batch", "status": status, "metadata": metadata, **more}

    async def listed(self, request: Request) -> Response:
        return JSONResponse({"data": [self.shown(name, "in_progress") for name in self.jobs]})

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
        return JSONResponse({"id": name, "type": "message_batch", "processing_status": "in_progress"})

    async def look_messages(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.jobs[name]["looks"] += 1
        ended = self.jobs[name]["looks"] >= LOOKS
        return JSONResponse({"id": name, "processing_status": "ended" if ended else "in_progress"})

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
    def __init__(self, port: int, provider: str, tmp_path: Any, **agent: Any) -> None:
        path = "/v1" if provider == "openai" else ""
        prices = tmp_path / "prices.json"
        prices.write_text(PRICES)
        self.clock = ManualClock()
        self.app: App = build_app(
            Settings(store="memory", model_api_key="secret", prices=str(prices), model_retries=0),
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


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_lines_are_answered_by_the_providers_batch_at_half_price(name: str, tmp_path: Any) -> None:
    provider = Provider()
    with provider.served() as port:
        world = World(port, name, tmp_path)
        batch = await world.submitted("one", "two", "broken three", "late four", "five")
        assert provider.calls == []
        waiting = await world.later(batch, 30)
        assert (waiting.status, waiting.done, [job["looks"] for job in provider.jobs.values()]) == (
            "running",
            0,
            [1],
        )
        done = await world.later(batch)
        assert (done.status, done.done, done.failed) == ("succeeded", 5, 0)
        # What the provider failed or let expire was asked in the ordinary way, at the full price.
        assert sorted(provider.calls) == ["broken three", "late four"]
        results = await world.results(done)
        assert [r["reply"]["text"] for r in results] == ["ONE", "TWO", "BROKEN THREE", "LATE FOUR", "FIVE"]
        assert done.cost == 3 * FULL // 2 + 2 * FULL
        assert [r["cost"]["usd"] for r in results] == ["0.001", "0.001", "0.002", "0.002", "0.001"]
        run = await world.app.engine.run(ME, results[0]["run_id"])
        [step] = await world.app.engine.steps(ME, run.id)
        assert (run.status, run.cost, step.reply and step.reply.batch) == ("succeeded", FULL // 2, True)
        page = await world.app.engine.session(ME, run.session_id)
        assert [message.text for message in page.messages] == ["one", "ONE"]
        await world.app.close()


async def test_without_a_deadline_or_with_tools_lines_are_asked_one_by_one(tmp_path: Any) -> None:
    @tool
    def nothing() -> str:
        """Nothing."""
        return ""

    class Reads:
        def process(self, message: Any) -> Any:
            return message

    provider = Provider()
    with provider.served() as port:
        for agent, options in (
            ({}, {"deadline": ""}),
            ({"tools": [nothing]}, {}),
            ({"plugins": [Reads()]}, {}),
        ):
            world = World(port, "openai", tmp_path, **agent)
            batch = await world.submitted("one", **options)
            done = await world.app.batches.get(ME, batch.id)
            assert (done.status, done.done, done.cost) == ("succeeded", 1, FULL)
            await world.app.close()
    assert provider.jobs == {}


async def test_a_server_that_has_no_batch_endpoint_is_asked_one_by_one(tmp_path: Any) -> None:
    provider = Provider(batches=False)
    with provider.served() as port:
        world = World(port, "openai", tmp_path)
        batch = await world.submitted("one", "two")
        done = await world.app.batches.get(ME, batch.id)
        assert (done.status, done.done, done.cost) == ("succeeded", 2, 2 * FULL)
        assert sorted(provider.calls) == ["one", "two"]
        await world.app.close()


async def test_a_job_whose_answer_was_lost_is_found_again_and_not_handed_in_twice(tmp_path: Any) -> None:
    provider = Provider()
    provider.cut = 1
    with provider.served() as port:
        world = World(port, "openai", tmp_path)
        batch = await world.submitted("one", "two")
        assert len(provider.jobs) == 1
        await world.later(batch)
        done = await world.later(batch)
        assert (done.status, done.done, done.cost) == ("succeeded", 2, FULL)
        assert (len(provider.jobs), provider.calls) == (1, [])
        await world.app.close()


async def test_a_cancelled_batch_keeps_what_the_provider_has_answered(tmp_path: Any) -> None:
    provider = Provider()
    with provider.served() as port:
        world = World(port, "openai", tmp_path)
        batch = await world.submitted("one", "late two", "three")
        await world.app.batches.cancel(ME, batch.id)
        done = await world.later(batch)
        assert (done.status, done.done, done.skipped, provider.calls) == ("cancelled", 2, 1, [])
        await world.app.close()


async def test_a_provider_that_never_ends_is_not_waited_for(tmp_path: Any) -> None:
    provider = Provider()
    with provider.served() as port:
        world = World(port, "openai", tmp_path)
        batch = await world.submitted("one")
        for job in provider.jobs.values():
            job["looks"] = -1000
        done = await world.later(batch, 27 * 3600)
        assert (done.status, done.done, provider.calls) == ("succeeded", 1, ["one"])
        await world.app.close()


async def test_many_lines_are_several_jobs(tmp_path: Any) -> None:
    provider = Provider()
    with provider.served() as port:
        world = World(port, "openai", tmp_path)
        batch = await world.submitted(*(f"word {n}" for n in range(5600)))
        assert [len(job["lines"]) for job in provider.jobs.values()] == [5000, 600]
        done = await world.later(batch)
        assert (done.status, done.done, provider.calls) == ("succeeded", 5600, [])
        assert [r["reply"]["text"] for r in await world.results(done)] == [f"WORD {n}" for n in range(5600)]
        await world.app.close()
