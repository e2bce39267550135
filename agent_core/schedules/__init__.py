"""When something is due, and the messages that come of it. Knows calendars and clocks, never what an agent does."""
