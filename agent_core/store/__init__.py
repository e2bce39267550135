"""Small records and transactions over them, one engine a file. Knows keys and fields, never what they mean."""
