"""agno's AgentOS; keeps sessions in SQLite, as Sampan does."""

import os

from agno.agent import Agent
from agno.db.sqlite import AsyncSqliteDb
from agno.models.openai import OpenAIChat
from agno.os import AgentOS

from benchmarks.peers.chat import SYSTEM

agent = Agent(
    id="assistant",
    instructions=SYSTEM,
    model=OpenAIChat(id="mock", base_url=os.environ["MODEL_ENDPOINT"], api_key="none"),
    db=AsyncSqliteDb(db_file=os.path.join(os.environ["PEER_DATA"], "agno.db")),
    add_history_to_context=True,
    telemetry=False,
)
app = AgentOS(agents=[agent], telemetry=False).get_app()
