"""What wraps a conversation: hooks around messages and tools, and the built-in plugins. No I/O of the engine's."""
