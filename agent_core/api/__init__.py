"""The HTTP surface: one ASGI app over the engine. It translates; what happens to a message is the engine's business.

Routes are a table (`routes.py`) from which both the router and the OpenAPI document are made.
"""
