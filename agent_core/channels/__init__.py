"""Services that messages come from and replies go to, one file each. No rule of the engine here."""
