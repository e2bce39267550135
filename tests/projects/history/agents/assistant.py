"""An agent for tests: a scripted model that answers from what it was given, history included, and from nothing else."""

import re

from agent_core import Agent, tool
from agent_core.errors import ModelRefusedError
from agent_core.messages import Prompt, ToolCall
from agent_core.models.scripted import Line, ScriptedModel

CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Italy": "Rome"}


@tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


def answer(prompt: Prompt) -> Line:
    """An answer that can only come from the messages of the prompt."""
    last = prompt.messages[-1]
    if last.tool_results:
        return f"The tool says {last.tool_results[0].content}."
    said = [message.text for message in prompt.messages if message.role == "user"]
    if country := re.fullmatch(r"(?:What is the capital|And) of (\w+)\?", said[-1]):
        asked = any(text.startswith("What is the capital of") for text in said)
        return f"The capital of {country[1]} is {CAPITALS[country[1]]}." if asked else "The what of it?"
    if numbers := re.fullmatch(r"add (\d+) and (\d+)", said[-1]):
        return ToolCall(f"call-{len(said)}", "add", f'{{"a": {numbers[1]}, "b": {numbers[2]}}}')
    if said[-1] == "What is my name?":
        names = [found[1] for text in said if (found := re.search(r"My name is (\w+)", text))]
        return f"Your name is {names[-1]}." if names else "You have not told me."
    if said[-1] == "fail":
        return ModelRefusedError("the model does not want to")
    return f"You said: {said[-1]}"


agent = Agent(name="assistant", model=ScriptedModel([answer] * 1000, piece=4), tools=[add])
