"""The HTTP surface: translates requests to messages and replies to responses; no rule of the engine here."""
