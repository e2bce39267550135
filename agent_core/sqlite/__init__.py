"""One SQLite file shared by many tasks and processes. Knows transactions and what goes wrong, never what is stored."""
