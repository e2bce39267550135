"""The `sampan` command. Nothing else imports it; rich and typer live here alone."""
