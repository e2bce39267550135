"""Programs that end while the local model is at something: `python ending.py "in a reply"`. Run by test_local.py."""

from __future__ import annotations

import asyncio
import sys
import threading

from agent_core.messages import Message, Prompt
from agent_core.models.local import LocalModel, weights

LONG = Prompt(messages=(Message.of("user", " ".join(f"word{number}" for number in range(500))),))
TALK = Prompt(messages=(Message.of("user", "Tell me a very long story."),))

model: LocalModel
kept: list[object] = []


async def whole() -> None:
    await model.reply(Prompt(messages=TALK.messages, max_tokens=1))


async def begun() -> None:
    async for _ in model.stream(TALK):
        return


async def exited() -> None:
    async for _ in model.stream(TALK):
        sys.exit(3)


async def left_open() -> None:
    stream = model.stream(TALK)
    kept.append(stream)
    await anext(stream)


async def reading() -> None:
    await asyncio.wait([asyncio.ensure_future(model.reply(LONG))], timeout=1)


def twice() -> None:
    asyncio.run(begun())
    asyncio.run(begun())


def in_a_thread() -> None:
    thread = threading.Thread(target=lambda: asyncio.run(begun()))
    thread.start()
    thread.join()


def in_a_daemon() -> None:
    thread = threading.Thread(target=lambda: asyncio.run(model.reply(LONG)), daemon=True)
    thread.start()
    thread.join(1)


ENDS = {
    "after a reply": lambda: asyncio.run(whole()),
    "in a reply": lambda: asyncio.run(begun()),
    "by sys.exit": lambda: asyncio.run(exited()),
    "with a stream open": lambda: asyncio.run(left_open()),
    "while a prompt is read": lambda: asyncio.run(reading()),
    "in a loop after a loop": twice,
    "in another thread": in_a_thread,
    "with a daemon at work": in_a_daemon,
    "without a word": lambda: None,
}

if __name__ == "__main__":
    model = LocalModel("local:smollm2", weights("smollm2"))
    ENDS[sys.argv[1]]()
