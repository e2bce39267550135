"""Errors as RFC 9457 problem documents, or in OpenAI's shape under /v1.

A problem's `type` is a URN. It is a name to compare with, not an address: a service that anyone may run has no
domain of its own to stand behind an https type, and a name that can't be fetched can't go stale or change hands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from agent_core.api.views import Problem
from agent_core.engine.runs import Failure, Run
from agent_core.errors import (
    AgentError,
    CancelledError,
    RunningError,
    ScopeError,
    StepUpError,
    UnknownCallerError,
)

URN = "urn:sampan:problem:"
PROBLEM_JSON = "application/problem+json"
EXTRAS = ("field", "run_id", "limit", "plugin", "scope", "violated_policies", "asked")
OPENAI_PATHS = "/v1/"
"""Paths under which errors have OpenAI's shape, so that its clients understand them."""


def of_error(error: AgentError, request_id: str) -> Problem:
    """The problem of an error of this request."""
    return _problem(
        slug=error.slug,
        status=error.status,
        title=error.title,
        detail=error.detail,
        retryable=error.retryable,
        extras=error.extras(),
        instance=f"urn:sampan:request:{request_id}",
    )


def headers_of(error: AgentError) -> dict[str, str]:
    """What an error says in headers, besides Retry-After. RFC 6750 section 3"""
    if isinstance(error, RunningError):
        return {"Location": f"/api/v1/runs/{error.run_id}"}
    if isinstance(error, UnknownCallerError):
        invalid = ', error="invalid_token"' if error.given else ""
        return {"WWW-Authenticate": f'Bearer realm="sampan"{invalid}'}
    if isinstance(error, StepUpError):
        # RFC 9470 section 3
        words = f'Bearer realm="sampan", error="insufficient_user_authentication", error_description="{error.title}"'
        return {"WWW-Authenticate": f'{words}, acr_values="mfa", max_age="300"'}
    if isinstance(error, ScopeError):
        words = f'Bearer realm="sampan", error="insufficient_scope", scope="{error.scope}"'
        return {"WWW-Authenticate": words}
    return {}


def of_run(run: Run) -> Problem | None:
    """Why a run did not succeed; None where it did, or still may."""
    if run.failure is None and run.status != "cancelled":
        return None
    failure = run.failure or Failure(
        CancelledError.slug, CancelledError.status, CancelledError.title, "the run was cancelled"
    )
    return _problem(
        slug=failure.slug,
        status=failure.status,
        title=failure.title,
        detail=failure.detail,
        retryable=failure.retryable,
        extras={**failure.extras, "run_id": run.id},
        instance=f"/api/v1/runs/{run.id}",
    )


def internal(request_id: str) -> Problem:
    """An error nobody thought of: the log has it under this id, the caller does not."""
    return _problem(
        slug=AgentError.slug,
        status=AgentError.status,
        title=AgentError.title,
        detail="an unexpected error; the service's log has it under the id in `instance`",
        retryable=False,
        extras={},
        instance=f"urn:sampan:request:{request_id}",
    )


def response(
    problem: Problem, path: str, *, headers: Mapping[str, str] | None = None, retry_after: float | None = None
) -> Response:
    """The answer that carries a problem, in the shape that clients of this path expect."""
    headers = dict(headers or {})
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if path.startswith(OPENAI_PATHS):
        return _openai(problem, headers)
    return Response(msgspec.json.encode(problem), problem.status, headers, PROBLEM_JSON)


def openai_error(problem: Problem) -> dict[str, Any]:
    """A problem in OpenAI's shape."""
    status = _openai_status(problem)
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    field = problem.field.removeprefix("$").removeprefix(".")
    return {
        "error": {
            "message": problem.detail or problem.title,
            "type": kind,
            "param": field or None,
            "code": problem.type.removeprefix(URN).replace("-", "_"),
            "run_id": problem.run_id or None,
        }
    }


def _openai(problem: Problem, headers: dict[str, str]) -> Response:
    # OpenAI's clients repeat failed calls by themselves, each time a new run: tell them where that can't help.
    headers["X-Should-Retry"] = "true" if problem.retryable else "false"
    return Response(
        msgspec.json.encode(openai_error(problem)), _openai_status(problem), headers, "application/json"
    )


def _openai_status(problem: Problem) -> int:
    return 400 if problem.type == URN + "invalid-input" else problem.status


def _problem(
    *,
    slug: str,
    status: int,
    title: str,
    detail: str,
    retryable: bool,
    extras: Mapping[str, Any],
    instance: str,
) -> Problem:
    known = {name: value for name, value in extras.items() if name in EXTRAS}
    return Problem(
        type=URN + slug,
        title=title,
        status=status,
        detail=detail,
        instance=instance,
        retryable=retryable,
        **known,
    )
