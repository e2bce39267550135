"""The engine's front: accept a message, work on its run, watch it, read what is stored."""
