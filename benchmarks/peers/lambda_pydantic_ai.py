"""A Lambda handler with an agent of pydantic-ai; keeps nothing."""

import json
import os
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from benchmarks.peers.chat import SYSTEM

provider = OpenAIProvider(base_url=os.environ["MODEL_ENDPOINT"], api_key="none")
agent = Agent(OpenAIChatModel("mock", provider=provider), instructions=SYSTEM)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    reply = agent.run_sync(json.loads(event["body"])["message"])
    return {"statusCode": 200, "body": json.dumps({"reply": reply.output})}
