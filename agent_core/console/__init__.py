"""The pages people look at, rendered on the server. Reads and writes through the engine only."""
