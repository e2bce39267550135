"""What things cost: prices as facts, usage to money, ledger entries."""
