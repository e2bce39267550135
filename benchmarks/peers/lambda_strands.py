"""A Lambda handler with Strands, whose application is AgentCore's; keeps nothing."""

import json
import os
from typing import Any

from bedrock_agentcore.runtime import BedrockAgentCoreApp
from strands import Agent
from strands.models.openai import OpenAIModel

from benchmarks.peers.chat import SYSTEM

app = BedrockAgentCoreApp()
model = OpenAIModel(
    client_args={"base_url": os.environ["MODEL_ENDPOINT"], "api_key": "none"}, model_id="mock"
)


@app.entrypoint
def answer(asked: dict[str, Any]) -> dict[str, str]:
    agent = Agent(model=model, system_prompt=SYSTEM, callback_handler=None)
    return {"reply": str(agent(asked["message"]))}


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {"statusCode": 200, "body": json.dumps(answer(json.loads(event["body"])))}
