"""What keeps the pages safe in a browser: headers for every answer, and no writes on another site's behalf."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: browsers would then send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def from_our_pages(headers: Mapping[str, str]) -> bool:
    """Whether a request that changes something was sent by a page of ours, or by no page at all.

    Browsers say where a request comes from: in Sec-Fetch-Site, which a page can't forge
    (https://www.w3.org/TR/fetch-metadata/), older ones in Origin, which every browser sends with a POST. A request
    with neither comes from a program, which could send what it likes anyway.
    """
    sent = {name.lower(): value for name, value in headers.items()}
    site = sent.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = sent.get("origin")
    if origin is None:
        return True
    return bool(sent.get("host")) and urlsplit(origin).netloc.lower() == sent["host"].lower()
