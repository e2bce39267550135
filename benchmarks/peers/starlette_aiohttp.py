"""The floor: Starlette and aiohttp, a few lines that keep nothing, check nothing and retry nothing."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.peers.chat import body_of, event_of, text_of

URL = os.environ["MODEL_ENDPOINT"] + "/chat/completions"


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with aiohttp.ClientSession() as app.state.client:
        yield


async def answer(request: Request) -> Response:
    asked = await request.json()
    client: aiohttp.ClientSession = request.app.state.client
    if asked.get("stream"):
        return StreamingResponse(events(client, asked), media_type="text/event-stream")
    async with client.post(URL, json=body_of(asked)) as reply:
        return JSONResponse({"reply": text_of(await reply.json())})


async def events(client: aiohttp.ClientSession, asked: dict) -> AsyncIterator[bytes]:
    async with client.post(URL, json=body_of(asked)) as reply:
        async for line in reply.content:
            if event := event_of(line.decode()):
                yield event


app = Starlette(routes=[Route("/api/v1/agent", answer, methods=["POST"])], lifespan=lifespan)
