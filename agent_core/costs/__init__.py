"""What things cost: prices as facts, usage to money, ledger entries.

All money is in nano-dollars (10^-9 USD) as whole numbers. What is not known is None, never 0.
"""
