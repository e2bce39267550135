"""A Lambda handler with LiteLLM; keeps nothing."""

import json
import os
from typing import Any

import litellm

from benchmarks.peers.chat import messages_of


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    reply = litellm.completion(
        "openai/mock",
        messages=messages_of(json.loads(event["body"])["message"]),
        api_base=os.environ["MODEL_ENDPOINT"],
        api_key="none",
    )
    return {"statusCode": 200, "body": json.dumps({"reply": reply.choices[0].message.content})}
