"""How services sign their webhooks: one file per family of schemes, pure but for the keys of a token's issuer."""
