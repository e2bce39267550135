"""A Lambda handler as most would write it by hand: Powertools, pydantic, httpx and boto3.

One read, one model call, one write. It has no journal, no lease, no idempotency, no retries of its own.
"""

import os
import time
from typing import Any

import boto3
import httpx
from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from pydantic import BaseModel

from benchmarks.peers.chat import SYSTEM

logger = Logger(service="agent")
app = APIGatewayHttpResolver()
table = boto3.client("dynamodb")
client = httpx.Client(base_url=os.environ["MODEL_ENDPOINT"], headers={"authorization": "Bearer none"})


class Asked(BaseModel):
    message: str
    session_id: str


class Message(BaseModel):
    role: str
    content: str


class Session(BaseModel):
    messages: list[Message] = []
    updated_at: float = 0.0


class Choice(BaseModel):
    message: Message


class Completion(BaseModel):
    choices: list[Choice]


@app.post("/api/v1/agent")
def answer() -> dict[str, Any]:
    asked = Asked.model_validate_json(app.current_event.body or "")
    key = {"pk": {"S": f"session/{asked.session_id}"}, "sk": {"S": "state"}}
    found = table.get_item(TableName=os.environ["TABLE"], Key=key, ConsistentRead=True).get("Item")
    session = Session.model_validate_json(found["body"]["S"]) if found else Session()
    session.messages.append(Message(role="user", content=asked.message))
    messages = [Message(role="system", content=SYSTEM), *session.messages]
    reply = client.post(
        "/chat/completions",
        json={"model": "mock", "messages": [message.model_dump() for message in messages]},
    )
    message = Completion.model_validate_json(reply.raise_for_status().content).choices[0].message
    session.messages.append(message)
    session.updated_at = time.time()
    table.put_item(TableName=os.environ["TABLE"], Item={**key, "body": {"S": session.model_dump_json()}})
    logger.info("answered", extra={"session": asked.session_id})
    return {"reply": message.content, "session_id": asked.session_id}


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return app.resolve(event, context)
