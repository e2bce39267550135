"""A Lambda handler with a graph of one node, LangGraph and LangChain's OpenAI model; keeps nothing."""

import json
import os
from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

from benchmarks.peers.chat import messages_of

model = ChatOpenAI(model="mock", base_url=os.environ["MODEL_ENDPOINT"], api_key="none")


def answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [model.invoke(state["messages"])]}


graph = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    found = graph.invoke({"messages": messages_of(json.loads(event["body"])["message"])})
    return {"statusCode": 200, "body": json.dumps({"reply": found["messages"][-1].content})}
