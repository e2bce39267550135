"""Sampan: a serverless agent framework. Write an agent in one file; run it anywhere, unchanged.

    from agent_core import Agent, tool

Everything a user's file needs is here; all else is imported from the module that is named for it.
"""

from agent_core.agent import Agent, Compaction, Limits, Responder, Schedule
from agent_core.app import App, build_app
from agent_core.errors import AgentError, ToolError
from agent_core.messages import Chunk, Message, Principal, Reply, ToolCall, ToolResult, Turn, Usage
from agent_core.plugins.base import Stop
from agent_core.settings import Settings
from agent_core.tools.base import Tool, tool

__all__ = [
    "Agent",
    "AgentError",
    "App",
    "Chunk",
    "Compaction",
    "Limits",
    "Message",
    "Principal",
    "Reply",
    "Responder",
    "Schedule",
    "Settings",
    "Stop",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolResult",
    "Turn",
    "Usage",
    "build_app",
    "tool",
]
