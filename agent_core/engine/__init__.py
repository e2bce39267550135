"""Runs: accept, lease, journal, commit. The only place that writes sessions, runs and the ledger."""
