"""`python -m agent_core.cli` is `sampan`."""

from agent_core.cli import main

main()
