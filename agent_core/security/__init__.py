"""Who may do what, and what can be trusted: signatures first. Decides; carries nothing out."""
