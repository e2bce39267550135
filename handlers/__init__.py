"""Entry points, one file per trigger: translate a platform's event into a message and back. No business rule here."""
