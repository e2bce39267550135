"""What most people write: FastAPI and OpenAI's own client; keeps nothing."""

import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

from benchmarks.peers.chat import frame, messages_of

app = FastAPI()
client = AsyncOpenAI(base_url=os.environ["MODEL_ENDPOINT"], api_key="none")


class Asked(BaseModel):
    message: str
    stream: bool = False


class Answer(BaseModel):
    reply: str


@app.post("/api/v1/agent", response_model=Answer)
async def answer(asked: Asked) -> Answer | StreamingResponse:
    if asked.stream:
        return StreamingResponse(events(asked.message), media_type="text/event-stream")
    reply = await client.chat.completions.create(model="mock", messages=messages_of(asked.message))
    return Answer(reply=reply.choices[0].message.content or "")


async def events(message: str) -> AsyncIterator[bytes]:
    stream = await client.chat.completions.create(model="mock", messages=messages_of(message), stream=True)
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            yield frame(chunk.choices[0].delta.content)
