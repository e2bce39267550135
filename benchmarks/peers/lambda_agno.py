"""A Lambda handler with an agent of agno; keeps nothing."""

import json
import os
from typing import Any

from agno.agent import Agent
from agno.models.openai import OpenAIChat

from benchmarks.peers.chat import SYSTEM

model = OpenAIChat(id="mock", base_url=os.environ["MODEL_ENDPOINT"], api_key="none")
agent = Agent(id="assistant", instructions=SYSTEM, model=model, telemetry=False)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    reply = agent.run(json.loads(event["body"])["message"])
    return {"statusCode": 200, "body": json.dumps({"reply": reply.content})}
