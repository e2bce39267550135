"""Starlette and httpx; keeps nothing."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.peers.chat import body_of, event_of, text_of

URL = os.environ["MODEL_ENDPOINT"] + "/chat/completions"


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with httpx.AsyncClient() as app.state.client:
        yield


async def answer(request: Request) -> Response:
    asked = await request.json()
    client: httpx.AsyncClient = request.app.state.client
    if asked.get("stream"):
        return StreamingResponse(events(client, asked), media_type="text/event-stream")
    reply = await client.post(URL, json=body_of(asked))
    return JSONResponse({"reply": text_of(reply.json())})


async def events(client: httpx.AsyncClient, asked: dict) -> AsyncIterator[bytes]:
    async with client.stream("POST", URL, json=body_of(asked)) as reply:
        async for line in reply.aiter_lines():
            if event := event_of(line):
                yield event


app = Starlette(routes=[Route("/api/v1/agent", answer, methods=["POST"])], lifespan=lifespan)
