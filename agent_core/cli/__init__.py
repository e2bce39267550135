"""The `sampan` command. Nothing else imports it; rich and typer live here alone."""

from __future__ import annotations

import sys

from agent_core.cli.extras import remedy


def main() -> None:
    """Run the command line; the console script `sampan` points here."""
    try:
        # Typer and rich are an extra that a function in the cloud does without; say so instead of a traceback.
        from agent_core.cli import root
    except ModuleNotFoundError as error:
        if not (words := remedy(error)):
            raise
        sys.exit(f"sampan: {words}")
    sys.exit(root.main(sys.argv[1:]))
