"""The one TLS context of the process. One costs about 40 ms of CPU, so it is made on the first https call and kept."""

from __future__ import annotations

import os.path
import ssl
from functools import cache


@cache
def shared_context() -> ssl.SSLContext:
    """A client context that verifies by the system's certificates, or certifi's where the system has none."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not any(path and os.path.exists(path) for path in (paths.cafile, paths.capath)):
        # Only machines without certificates of their own (some macOS builds, empty containers) need this.
        import certifi

        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
