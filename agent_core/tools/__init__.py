"""What a model may call: the tool, its schema, and the box that runs it safely. No model and no session here."""
