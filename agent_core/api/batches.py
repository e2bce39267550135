"""`/api/v1/batches`: many messages at once, as lines of JSON in and lines of JSON out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp

from agent_core.api import problems
from agent_core.api.answers import json_response
from agent_core.api.batch_schemas import (
    AppendQuery,
    BatchList,
    BatchQuery,
    BatchRequest,
    batch_view,
    options,
)
from agent_core.api.bodies import decode, next_piece, read_json, read_query
from agent_core.api.idempotency import REPLAYED, idempotency_key
from agent_core.api.principal import principal
from agent_core.api.schemas import RunsQuery
from agent_core.api.service import Service
from agent_core.batches.records import Batch
from agent_core.batches.service import Batches, OffsetError
from agent_core.batches.upload import JSONL
from agent_core.engine import keys
from agent_core.errors import InputError, MediaTypeError, NotFoundError
from agent_core.messages import Principal

LINES = (JSONL, "application/x-ndjson", "application/x-jsonlines")
OFFSET_HEADER = "Upload-Offset"
"""Where an upload must go on, as in draft-ietf-httpbis-resumable-upload."""

PIECE = 256 * 1024


async def post_batch(service: Service, request: Request) -> ASGIApp:
    """Make a batch of the lines in the body and have it run, or open one whose lines come later."""
    batches, caller = _batches(service), principal(request)
    batch_id = _batch_id(caller, idempotency_key(request.headers))
    query = read_query(request, BatchQuery)
    if _kind(request) in LINES:
        batch, known = await batches.submit(caller, options(query), _pieces(service, request), batch_id)
        return _response(service, batch, 202, known=known)
    wanted = decode(await read_json(request, service.settings), BatchRequest)
    if wanted.blob is None:
        batch, known = await batches.create(caller, options(query, wanted), batch_id)
        return _response(service, batch, 201, known=known)
    lines = batches.blob(caller, wanted.blob)
    batch, known = await batches.submit(caller, options(query, wanted), lines, batch_id)
    return _response(service, batch, 202, known=known)


async def append_batch(service: Service, request: Request) -> ASGIApp:
    """Go on with an upload. Where it is not at this byte, `Upload-Offset` of the refusal says where it is."""
    if _kind(request) not in LINES:
        raise MediaTypeError(f"lines of JSON are sent as {' or '.join(LINES[:2])}")
    query = read_query(request, AppendQuery)
    batches, batch_id = _batches(service), request.path_params["batch_id"]
    try:
        batch = await batches.append(principal(request), batch_id, query.offset, _pieces(service, request))
    except OffsetError as error:
        problem = problems.of_error(error, request.scope["request_id"])
        headers = {OFFSET_HEADER: str(error.received)}
        return problems.response(problem, request.scope["path"], headers=headers)
    return json_response(batch_view(batch, service.clock.now()), headers={OFFSET_HEADER: str(batch.received)})


async def start_batch(service: Service, request: Request) -> ASGIApp:
    """End an upload and have the batch run."""
    batch = await _batches(service).start(principal(request), request.path_params["batch_id"])
    return _response(service, batch, 202)


async def list_batches(service: Service, request: Request) -> ASGIApp:
    """A page of the caller's batches."""
    query = read_query(request, RunsQuery)
    found = await _batches(service).list(principal(request), limit=query.limit, before=query.before)
    following = found[-1].id if len(found) == query.limit else None
    now = service.clock.now()
    return json_response(BatchList([batch_view(batch, now) for batch in found], following))


async def get_batch(service: Service, request: Request) -> ASGIApp:
    """A batch and how far it is."""
    batch = await _batches(service).get(principal(request), request.path_params["batch_id"])
    return json_response(batch_view(batch, service.clock.now()))


async def batch_results(service: Service, request: Request) -> ASGIApp:
    """The results in the order of the lines, as far as they are there."""
    batch = await _batches(service).get(principal(request), request.path_params["batch_id"])
    headers = {"Sampan-Batch-Status": batch.status}
    return StreamingResponse(_batches(service).results(batch), 200, headers, JSONL)


async def cancel_batch(service: Service, request: Request) -> ASGIApp:
    """Begin no further line. 200: it has ended; 202: lines under way come to their end."""
    batch = await _batches(service).cancel(principal(request), request.path_params["batch_id"])
    return _response(service, batch, 200 if batch.over else 202)


def _batches(service: Service) -> Batches:
    if service.batches is None:
        raise NotFoundError("this service takes no batches")
    return service.batches()


def _batch_id(caller: Principal, key: str) -> str:
    return keys.run_id(caller, f"batch/{key}") if key else ""


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _response(service: Service, batch: Batch, status: int, *, known: bool = False) -> ASGIApp:
    headers = {"Location": f"/api/v1/batches/{batch.id}"} | (REPLAYED if known else {})
    return json_response(batch_view(batch, service.clock.now()), status, headers)


async def _pieces(service: Service, request: Request) -> AsyncIterator[bytes]:
    """The body as it comes; never all of it."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise MediaTypeError(f"the body must not be compressed: no Content-Encoding {coding[:40]!r}")
    declared = request.headers.get("content-length", "")
    if declared == "0":
        raise InputError("the body is empty: send lines of JSON", field="$")
    while True:
        event = await next_piece(request, service.settings.body_seconds)
        piece: bytes = event.get("body", b"")
        # In process a body may come as one piece; cut, so that segments are stored as it goes.
        for start in range(0, len(piece), PIECE):
            yield piece[start : start + PIECE]
        if not event.get("more_body", False):
            return
