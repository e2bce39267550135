"""Language models behind one Protocol, one vendor a file. No sessions, no tools run, no prices here."""
