"""Every route in one table. The router and the OpenAPI document are both made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from agent_core.api import agent, batches, chat, documents, health, kills, runs, sessions, views, webhooks
from agent_core.api import batch_schemas as batch
from agent_core.api import chat_schemas as openai
from agent_core.api import schemas as shape
from agent_core.api.service import Handler
from agent_core.security import scopes


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path.

    `scope` is what its caller must be allowed, "" where nobody is asked for a key.
    `query` and `body` are what it reads, `replies` what it gives by status (None for no content), `problems` which
    error statuses it may answer with besides those that any request can get. `events` says that it can stream,
    `hidden` that the OpenAPI document leaves it out, `lines` that it takes or gives lines of JSON. `leads_to` names
    operations that the answer helps to call, with the parameter and where in the answer its value is. `begins` says
    that a run may come of it.
    """

    method: str
    path: str
    handler: Handler
    name: str
    scope: str
    summary: str
    tag: str
    replies: dict[int, type[msgspec.Struct] | None]
    query: type[msgspec.Struct] = shape.NoQuery
    body: type[msgspec.Struct] | None = None
    problems: tuple[int, ...] = ()
    idempotent: bool = False
    events: bool = False
    example: dict[str, Any] | None = None
    hidden: bool = False
    lines: bool = False
    begins: bool = False
    leads_to: tuple[tuple[str, str, str], ...] = ()


RUN_FAILURES = (404, 409, 422, 500, 502, 503, 504)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="POST",
        path="/api/v1/agent",
        handler=agent.post_agent,
        name="answer",
        begins=True,
        scope=scopes.RUN,
        summary="Send a message to an agent and get its answer, whole or as server-sent events.",
        tag="agent",
        body=shape.AgentRequest,
        leads_to=(
            ("getRun", "run_id", "/run_id"),
            ("followRun", "run_id", "/run_id"),
            ("cancelRun", "run_id", "/run_id"),
            ("getSession", "session_id", "/session_id"),
            ("eraseSession", "session_id", "/session_id"),
        ),
        example={"message": "What is the capital of France?", "session_id": "travel-1"},
        replies={200: views.RunView, 202: views.RunView},
        problems=RUN_FAILURES,
        idempotent=True,
        events=True,
    ),
    Operation(
        method="GET",
        path="/api/v1/runs",
        handler=runs.list_runs,
        name="listRuns",
        scope=scopes.READ,
        summary="List your runs, newest first.",
        tag="runs",
        query=shape.RunsQuery,
        replies={200: views.RunList},
        leads_to=(("getRun", "run_id", "/runs/0/run_id"),),
        problems=(404, 422),
    ),
    Operation(
        method="GET",
        path="/api/v1/runs/{run_id}",
        handler=runs.get_run,
        name="getRun",
        scope=scopes.READ,
        summary="Look at a run: status, reply, cost and journal.",
        tag="runs",
        replies={200: views.RunDetail},
        problems=(404,),
    ),
    Operation(
        method="POST",
        path="/api/v1/runs/{run_id}/cancel",
        handler=runs.cancel_run,
        name="cancelRun",
        scope=scopes.RUN,
        summary="Ask a run to stop at its next step. 200: it has ended before; 202: it will stop.",
        tag="runs",
        replies={200: views.RunView, 202: views.RunView},
        problems=(404,),
    ),
    Operation(
        method="GET",
        path="/api/v1/runs/{run_id}/events",
        handler=runs.run_events,
        name="followRun",
        scope=scopes.READ,
        summary="Follow a run as server-sent events, from its beginning or from behind `Last-Event-ID`.",
        tag="runs",
        replies={200: None, 204: None},
        problems=(404,),
        events=True,
    ),
    Operation(
        method="POST",
        path="/api/v1/runs/{run_id}/approve",
        handler=runs.approve_run,
        name="approveRun",
        scope=scopes.DECIDE,
        summary="Say yes to what a run asks; it goes on.",
        tag="runs",
        body=shape.Decision,
        replies={202: views.RunView},
        problems=(404, 409),
    ),
    Operation(
        method="POST",
        path="/api/v1/runs/{run_id}/deny",
        handler=runs.deny_run,
        name="denyRun",
        scope=scopes.DECIDE,
        summary="Say no to what a run asks; it goes on, and the model is told.",
        tag="runs",
        body=shape.Decision,
        replies={202: views.RunView},
        problems=(404, 409),
    ),
    Operation(
        method="GET",
        path="/api/v1/sessions",
        handler=sessions.list_sessions,
        name="listSessions",
        scope=scopes.READ,
        summary="List your sessions, newest first.",
        tag="sessions",
        query=shape.RunsQuery,
        replies={200: views.SessionList},
        leads_to=(("getSession", "session_id", "/sessions/0/session_id"),),
        problems=(404, 422),
    ),
    Operation(
        method="GET",
        path="/api/v1/sessions/{session_id}",
        handler=sessions.get_session,
        name="getSession",
        scope=scopes.READ,
        summary="Read a session's messages, oldest first.",
        tag="sessions",
        query=shape.SessionQuery,
        replies={200: views.MessageList},
        problems=(404, 422),
    ),
    Operation(
        method="DELETE",
        path="/api/v1/sessions/{session_id}",
        handler=sessions.delete_session,
        name="eraseSession",
        scope=scopes.ERASE,
        summary="Erase a session for good: messages, runs, journals, blobs.",
        tag="sessions",
        replies={204: None},
        problems=(404, 409),
    ),
    Operation(
        method="POST",
        path="/api/v1/batches",
        handler=batches.post_batch,
        name="submitBatch",
        begins=True,
        scope=scopes.BATCHES,
        summary="Submit many messages as lines of JSON and have them answered, or open a batch whose lines come later.",
        tag="batches",
        query=batch.BatchQuery,
        body=batch.BatchRequest,
        lines=True,
        example={"agent": "assistant", "concurrency": 8, "usd": 5.0},
        replies={201: batch.BatchView, 202: batch.BatchView},
        leads_to=(
            ("getBatch", "batch_id", "/batch_id"),
            ("startBatch", "batch_id", "/batch_id"),
            ("cancelBatch", "batch_id", "/batch_id"),
        ),
        problems=(404, 409),
        idempotent=True,
    ),
    Operation(
        method="GET",
        path="/api/v1/batches",
        handler=batches.list_batches,
        name="listBatches",
        scope=scopes.BATCHES,
        summary="List your batches, newest first.",
        tag="batches",
        query=shape.RunsQuery,
        replies={200: batch.BatchList},
        leads_to=(("getBatch", "batch_id", "/batches/0/batch_id"),),
        problems=(404, 422),
    ),
    Operation(
        method="GET",
        path="/api/v1/batches/{batch_id}",
        handler=batches.get_batch,
        name="getBatch",
        scope=scopes.BATCHES,
        summary="Look at a batch: how far it is, what it cost, which lines can't be read.",
        tag="batches",
        replies={200: batch.BatchView},
        problems=(404,),
    ),
    Operation(
        method="PATCH",
        path="/api/v1/batches/{batch_id}",
        handler=batches.append_batch,
        name="appendBatch",
        scope=scopes.BATCHES,
        summary="Go on with the upload of a batch's lines at a byte; the 409 for a wrong one tells the right one.",
        tag="batches",
        query=batch.AppendQuery,
        lines=True,
        replies={200: batch.BatchView},
        problems=(400, 404, 409, 413, 415, 422),
    ),
    Operation(
        method="GET",
        path="/api/v1/batches/{batch_id}/results",
        handler=batches.batch_results,
        name="batchResults",
        scope=scopes.BATCHES,
        summary="Read the results, as lines of JSON in the order of the batch's lines, as far as they are there.",
        tag="batches",
        lines=True,
        replies={200: None},
        problems=(404,),
    ),
    Operation(
        method="POST",
        path="/api/v1/batches/{batch_id}/start",
        handler=batches.start_batch,
        name="startBatch",
        scope=scopes.BATCHES,
        summary="End the upload of a batch and have it run.",
        tag="batches",
        replies={202: batch.BatchView},
        problems=(404, 409, 422),
    ),
    Operation(
        method="POST",
        path="/api/v1/batches/{batch_id}/cancel",
        handler=batches.cancel_batch,
        name="cancelBatch",
        scope=scopes.BATCHES,
        summary="Begin no further line of a batch. 200: it has ended; 202: lines under way come to their end.",
        tag="batches",
        replies={200: batch.BatchView, 202: batch.BatchView},
        problems=(404,),
    ),
    Operation(
        method="GET",
        path="/api/v1/kills",
        handler=kills.list_kills,
        name="listKills",
        scope=scopes.ADMIN,
        summary="List what an operator has stopped: agents, tools, or all of your tenant.",
        tag="safety",
        replies={200: views.KillList},
    ),
    Operation(
        method="POST",
        path="/api/v1/kills",
        handler=kills.kill,
        name="kill",
        scope=scopes.ADMIN,
        summary="Stop an agent, a tool, or all that runs for your tenant, on every process, within one step.",
        tag="safety",
        body=shape.Kill,
        example={"kind": "tool", "name": "refund", "reason": "it pays too much"},
        replies={200: views.KillView},
        problems=(404, 422),
    ),
    Operation(
        method="POST",
        path="/api/v1/kills/lift",
        handler=kills.lift,
        name="liftKill",
        scope=scopes.ADMIN,
        summary="Let go again what was stopped; gives what still is.",
        tag="safety",
        body=shape.Lift,
        replies={200: views.KillList},
        problems=(404, 422),
    ),
    Operation(
        method="POST",
        path="/v1/chat/completions",
        handler=chat.post_chat,
        name="chatCompletions",
        begins=True,
        scope=scopes.RUN,
        summary="OpenAI's chat completions, answered by the agent that `model` names.",
        tag="openai",
        body=openai.ChatRequest,
        example={
            "model": "assistant",
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
        },
        replies={200: openai.ChatCompletion},
        problems=(400, 404, 409, 422, 500, 502, 503, 504),
        idempotent=True,
        events=True,
    ),
    Operation(
        method="GET",
        path="/v1/models",
        handler=chat.list_models,
        name="listModels",
        scope=scopes.RUN,
        summary="All agents, as OpenAI lists models.",
        tag="openai",
        replies={200: openai.ModelList},
        leads_to=(("getModel", "model", "/data/0/id"),),
    ),
    Operation(
        method="GET",
        path="/v1/models/{model}",
        handler=chat.get_model,
        name="getModel",
        scope=scopes.RUN,
        summary="One agent, as OpenAI shows a model.",
        tag="openai",
        replies={200: openai.ModelCard},
        problems=(404,),
    ),
    Operation(
        method="POST",
        path="/webhooks/{channel}",
        handler=webhooks.post_webhook,
        name="webhook",
        begins=True,
        scope="",
        summary="What a chat service sends to a channel: verified, accepted, acknowledged; answered later.",
        tag="webhooks",
        replies={200: None, 202: None, 204: None},
        problems=(400, 401, 403, 404, 409, 413, 422, 503),
    ),
    Operation(
        method="GET",
        path="/webhooks/{channel}",
        handler=webhooks.post_webhook,
        name="webhookHandshake",
        scope="",
        summary="Some services ask so whether a channel's address is yours, before they use it.",
        tag="webhooks",
        replies={200: None},
        problems=(400, 401, 403, 404, 405),
    ),
    Operation(
        method="GET",
        path="/healthz",
        handler=health.healthz,
        name="healthz",
        scope="",
        summary="Whether the process answers.",
        tag="service",
        replies={200: views.Health},
    ),
    Operation(
        method="GET",
        path="/readyz",
        handler=health.readyz,
        name="readyz",
        scope="",
        summary="Whether it can work: the store answers.",
        tag="service",
        replies={200: views.Health},
        problems=(503,),
    ),
    Operation(
        method="GET",
        path="/",
        handler=health.home,
        name="home",
        scope="",
        summary="Where things are.",
        tag="service",
        replies={200: views.Home},
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        handler=documents.openapi,
        name="openapi",
        scope="",
        summary="This API as an OpenAPI 3.1 document.",
        tag="service",
        replies={},
        hidden=True,
    ),
    Operation(
        method="GET",
        path="/docs",
        handler=documents.docs,
        name="docs",
        scope="",
        summary="This API as a page to read.",
        tag="service",
        replies={},
        hidden=True,
    ),
)
