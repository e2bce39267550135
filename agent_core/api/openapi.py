"""The OpenAPI 3.1 document, made from the table of routes and their structs when the project is built.

`python -m agent_core.api.openapi` writes it beside this file, `--check` fails where it is not up to date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec

from agent_core.api.chat import RUN_HEADER, SESSION_HEADER
from agent_core.api.chat_schemas import OpenAIError
from agent_core.api.documents import OPENAPI as FILE
from agent_core.api.idempotency import MAX_KEY, PATTERN
from agent_core.api.problems import OPENAI_PATHS, PROBLEM_JSON
from agent_core.api.routes import OPERATIONS, Operation
from agent_core.api.views import Problem
from agent_core.batches.upload import JSONL
from agent_core.engine.runs import EventType

VERSION = "1.0.0"
"""Of the HTTP surface: the first number grows when clients must change."""

REFERENCE = "#/components/schemas/{name}"

REASONS = {
    200: "The answer.",
    201: "It is made; `Location` says where it is.",
    202: "Taken on; `Location` says where to look for what becomes of it.",
    204: "There is nothing to say, or nothing more.",
    400: "The request can't be read.",
    401: "No good key, or a webhook that is not signed as it must be.",
    403: "The key does not have the scope, or a webhook shows the wrong token.",
    404: "There is no such thing for you.",
    405: "The path takes other methods: `Allow` lists them.",
    408: "The body comes too slowly.",
    409: "The state forbids it now: the run of this idempotency key is in progress, or the session is busy.",
    413: "The body is larger than the service takes.",
    414: "The address is longer than the service takes.",
    415: "The body is not JSON.",
    422: "The request is read but can't be used; `field` says where.",
    429: "Too many requests; `Retry-After` says when to come back.",
    431: "The headers are larger than the service takes.",
    500: "The service, a tool or a plugin failed.",
    502: "The model did not answer rightly.",
    503: "The model or the store is not available now.",
    504: "The model did not answer in time.",
}
SECURITY = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "`sampan_...` as `sampan keys create` gives it, or a token of the issuer that is set. The scope"
        " of each operation stands beside it. A server on one's own machine asks for none.",
    },
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "The same key."},
}
FOR_THE_KNOWN = (401, 403, 429)
ANY_REQUEST = (414, 431, 500)
ANY_BODY = (400, 408, 413, 415, 422)

DESCRIPTION = f"""Send messages to agents and look at what became of them.

**Errors** are problem documents (RFC 9457). Their `type` is `urn:sampan:problem:` and a word that never changes its
meaning; under `{OPENAI_PATHS}` they have OpenAI's shape instead. **Idempotency**: send a message with a header
`Idempotency-Key` of up to {MAX_KEY} characters, and it is answered and paid for once however often you send it."""


def document() -> dict[str, Any]:
    """The document, as JSON-ready fields."""
    shown = [operation for operation in OPERATIONS if not operation.hidden]
    kinds = {kind for operation in shown for kind in _kinds(operation)}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=REFERENCE)
    # Exactly one of the two fields: nothing a struct can say.
    components["AgentRequest"]["oneOf"] = [{"required": ["message"]}, {"required": ["messages"]}]
    paths: dict[str, dict[str, Any]] = {}
    for operation in shown:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, components)
    queries = {operation.query.__name__ for operation in shown}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sampan",
            "version": VERSION,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "agent", "description": "Messages in, answers out."},
            {"name": "runs", "description": "The work behind each answer."},
            {"name": "batches", "description": "Many messages at once, as lines of JSON."},
            {"name": "sessions", "description": "Conversations."},
            {"name": "safety", "description": "What an operator stops."},
            {"name": "openai", "description": "Agents for clients of OpenAI's API."},
            {"name": "webhooks", "description": "What chat services send."},
            {"name": "service", "description": "Is it there, can it work."},
        ],
        "paths": paths,
        "components": {
            "schemas": {name: components[name] for name in components if name not in queries},
            "securitySchemes": SECURITY,
        },
    }


def _kinds(operation: Operation) -> set[type[msgspec.Struct]]:
    kinds = {kind for kind in operation.replies.values() if kind is not None}
    return (
        kinds | {operation.query, _problem_kind(operation)} | ({operation.body} if operation.body else set())
    )


def _problem_kind(operation: Operation) -> type[msgspec.Struct]:
    return OpenAIError if operation.path.startswith(OPENAI_PATHS) else Problem


def _operation(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        # Nobody is asked on one's own machine, so it is one way of several.
        "security": [{"key": [operation.scope]}, {"header": [operation.scope]}] if operation.scope else [],
        "tags": [operation.tag],
        "parameters": _parameters(operation, components),
        "responses": _responses(operation),
    }
    content: dict[str, Any] = {}
    if operation.body is not None:
        content["application/json"] = {"schema": _reference(operation.body)}
        if operation.example is not None:
            content["application/json"]["example"] = operation.example
    if operation.lines and operation.method != "GET":
        # Of no type: text is all that a body can be, but a schema of a string means a string in JSON.
        content[JSONL] = {"schema": {"description": "Lines of JSON.", "pattern": r"\S"}}
    if content:
        fields["requestBody"] = {"required": True, "content": content}
    return fields


def _parameters(operation: Operation, components: dict[str, Any]) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    for name, schema in components[operation.query.__name__]["properties"].items():
        found.append({"name": name, "in": "query", "required": False, "schema": schema})
    if operation.idempotent:
        found.append(
            _header(
                "Idempotency-Key",
                "Names this message, so that sending it again gives the first answer.",
                {"type": "string", "pattern": PATTERN},
            )
        )
    if operation.stepup:
        words = "Six digits of the caller's authenticator app; asked of those who have one."
        found.append(_header("X-Sampan-Code", words, {"type": "string"}))
    if operation.events and operation.method == "GET":
        found.append(
            _header("Last-Event-ID", "The last event seen; what comes after it is sent.", {"type": "string"})
        )
    if operation.name == "answer":
        words = "`respond-async` to get a 202 at once, `wait=<seconds>` to get one when that time is over (RFC 7240)."
        found.append(_header("Prefer", words, {"type": "string"}))
    if operation.path.startswith(OPENAI_PATHS) and operation.body is not None:
        found.append(
            _header(
                SESSION_HEADER,
                "A session to go on with; only what follows the last answer is taken from `messages` then.",
                {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9._:@-]+$"},
            )
        )
    return found


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _responses(operation: Operation) -> dict[str, Any]:
    responses = {str(status): _reply(operation, status, kind) for status, kind in operation.replies.items()}
    errors = {*operation.problems, *ANY_REQUEST, *(ANY_BODY if operation.body else ())}
    if operation.scope:
        errors.update(FOR_THE_KNOWN)
    if operation.query.__struct_fields__:
        errors.add(422)
    kind = _problem_kind(operation)
    media = "application/json" if kind is OpenAIError else PROBLEM_JSON
    for status in sorted(errors):
        responses[str(status)] = {
            "description": REASONS[status],
            "headers": _headers("X-Request-Id", *(("Retry-After",) if status in (409, 429, 503) else ())),
            "content": {media: {"schema": _reference(kind)}},
        }
    return dict(sorted(responses.items()))


def _reply(operation: Operation, status: int, kind: type[msgspec.Struct] | None) -> dict[str, Any]:
    names = ["X-Request-Id"]
    if operation.idempotent:
        names.append("Idempotency-Replayed")
        names += [RUN_HEADER, SESSION_HEADER] if operation.path.startswith(OPENAI_PATHS) else ["Location"]
    reply: dict[str, Any] = {"description": REASONS[status], "headers": _headers(*names)}
    if kind is not None:
        reply["content"] = {"application/json": {"schema": _reference(kind)}}
    if operation.lines and operation.method == "GET":
        reply["content"] = {JSONL: {"schema": {"type": "string"}}}
    if operation.events and status == 200:
        reply.setdefault("content", {})["text/event-stream"] = {"schema": _event(operation)}
    if operation.leads_to and status == min(operation.replies):
        reply["links"] = {
            target: {"operationId": target, "parameters": {parameter: f"$response.body#{pointer}"}}
            for target, parameter, pointer in operation.leads_to
        }
    return reply


def _event(operation: Operation) -> dict[str, Any]:
    """One server-sent event."""
    data = {"type": "string", "contentMediaType": "application/json"}
    if operation.path.startswith(OPENAI_PATHS):
        return {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
    return {
        "type": "object",
        "properties": {"id": {"type": "string"}, "event": {"enum": [*get_args(EventType)]}, "data": data},
        "required": ["id", "event", "data"],
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"schema": {"type": "string"}} for name in names}


def _reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(name=kind.__name__)}


def text() -> bytes:
    """The document as it is stored."""
    encoded = msgspec.json.encode(document(), order="sorted")
    return msgspec.json.format(encoded, indent=1) + b"\n"


def main(arguments: list[str]) -> int:
    """Write the document, or check it; the exit status."""
    names = [argument for argument in arguments if not argument.startswith("-")]
    file = Path(names[0]) if names else FILE
    if "--check" not in arguments:
        file.write_bytes(text())
        return 0
    if file.exists() and file.read_bytes() == text():
        return 0
    sys.stderr.write(f"{file.name} is not what the code says: run `make openapi`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
