"""When something is due. Knows calendars and clocks, never what is done then."""
