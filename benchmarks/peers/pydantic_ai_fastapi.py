"""pydantic-ai behind FastAPI, as its documentation shows; keeps nothing."""

import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from benchmarks.peers.chat import SYSTEM, frame

app = FastAPI()
provider = OpenAIProvider(base_url=os.environ["MODEL_ENDPOINT"], api_key="none")
agent = Agent(OpenAIChatModel("mock", provider=provider), instructions=SYSTEM)


class Asked(BaseModel):
    message: str
    stream: bool = False


class Answer(BaseModel):
    reply: str


@app.post("/api/v1/agent", response_model=Answer)
async def answer(asked: Asked) -> Answer | StreamingResponse:
    if asked.stream:
        return StreamingResponse(events(asked.message), media_type="text/event-stream")
    return Answer(reply=(await agent.run(asked.message)).output)


async def events(message: str) -> AsyncIterator[bytes]:
    async with agent.run_stream(message) as reply:
        # Each piece at once, as the others do it; by default pieces of a tenth of a second are put together.
        async for text in reply.stream_text(delta=True, debounce_by=None):
            yield frame(text)
