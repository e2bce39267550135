"""Bytes too large for a record. Knows tenants and references, never what the bytes mean."""
