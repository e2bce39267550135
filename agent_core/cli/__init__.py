"""The `sampan` command. Nothing else imports it; rich and typer live here alone."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the console script `sampan` points here."""
    try:
        # Typer and rich are an extra that a function in the cloud does without; say so instead of a traceback.
        from agent_core.cli import root
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit("sampan: the command line needs packages that are not installed: pip install 'sampan[cli]'")
    sys.exit(root.main(sys.argv[1:]))
