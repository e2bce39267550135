"""Batches through a provider's own batch endpoint, at half the price and never handed in twice."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_core import tool
from tests.agent_core.batches.providers import FULL, LOOKS, ME, Provider, World

ROOT = Path(__file__).parents[3]


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


def others(provider: Provider, name: str, *counts: int) -> None:
    """Jobs of somebody else in the same workspace, newer than ours, with so many requests each."""
    for count in counts:
        body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
        custom = [f"line-{number}" for number in range(count)]
        lines = [{"custom_id": one, "body": body, "params": body} for one in custom]
        provider.jobs[f"{name}-{len(provider.jobs)}"] = {"lines": lines, "looks": 0, "metadata": None}


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_a_job_whose_answer_was_lost_is_found_again_and_not_handed_in_twice(
    name: str, tmp_path: Any
) -> None:
    """Behind other jobs, one of the same size among them; Anthropic's are told apart once they have ended."""
    provider = Provider()
    provider.cut = 1
    with provider.served() as port:
        world = World(port, name, tmp_path)
        batch = await world.submitted("one", "two")
        assert len(provider.jobs) == 1
        others(provider, "foreign", 1, 2, 3, 4)
        if name == "anthropic":
            waiting = await world.later(batch)
            assert (waiting.status, waiting.done, len(provider.jobs)) == ("running", 0, 5)
            for job in provider.jobs.values():
                job["looks"] = LOOKS
        await world.later(batch)
        done = await world.later(batch)
        assert (done.status, done.done, done.cost) == ("succeeded", 2, FULL)
        assert (len(provider.jobs), provider.calls) == (5, [])
        await world.app.close()


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_a_job_that_never_arrived_is_handed_in_again(name: str, tmp_path: Any) -> None:
    provider = Provider()
    provider.cut = 1
    with provider.served() as port:
        world = World(port, name, tmp_path)
        batch = await world.submitted("one", "two")
        provider.jobs.clear()
        others(provider, "foreign", 1, 3)
        await world.later(batch)
        assert len(provider.jobs) == 3
        done = await world.later(batch)
        assert (done.status, done.done, done.cost, provider.calls) == ("succeeded", 2, FULL, [])
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


@pytest.mark.parametrize("name", ["openai", "anthropic"])
@pytest.mark.parametrize("place", ["before provider batch", "after provider batch"])
async def test_a_process_killed_while_it_hands_a_job_in_has_it_handed_in_once(
    name: str, place: str, tmp_path: Path
) -> None:
    """Killed before the provider has it, or when the provider has it and its id is stored nowhere."""
    provider = Provider()
    with provider.served() as port:
        command = [
            sys.executable,
            "-m",
            "tests.agent_core.batches.killed",
            str(port),
            name,
            str(tmp_path),
            place,
        ]
        child = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
        assert await asyncio.wait_for(child.wait(), 60) == -signal.SIGKILL
        assert len(provider.jobs) == (1 if place.startswith("after") else 0)
        others(provider, "foreign", 2)
        world = World(port, name, tmp_path, store="sqlite", later=60)
        [batch] = await world.app.batches.list(ME)
        for _ in range(3):
            for job in provider.jobs.values():
                job["looks"] = LOOKS
            done = await world.later(batch)
        assert (done.status, done.done, done.cost) == ("succeeded", 2, FULL)
        assert (len(provider.jobs), provider.calls) == (2, [])
        await world.app.close()
