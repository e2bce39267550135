"""Teams: a JWT of the Bot Framework in the Authorization header. It vouches for the sender, not for the body.

https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-authentication#connector-to-bot
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent_core.channels.payload import read_object, text_at
from agent_core.channels.schemes.base import known
from agent_core.errors import SignatureError
from agent_core.security.webhook import Webhook

ISSUER = "https://api.botframework.com"
ALGORITHMS = ["RS256"]
LEEWAY_SECONDS = 300
_BEARER = re.compile(r"Bearer ([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)")


class BotFrameworkScheme:
    """Verifies a token for this app by the issuer's keys (a JSON Web Key Set), which the caller fetches."""

    def __init__(self, app_id: str) -> None:
        self._app_id = known([app_id], "the app id")[0]

    def verify(self, hook: Webhook, now: float, keys: Mapping[str, Any]) -> bytes:
        """The body; raises SignatureError."""
        # Loaded only where Teams is on, for cold start.
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        found = _BEARER.fullmatch(hook.header("authorization"))
        if found is None:
            raise SignatureError("the header authorization must be Bearer and a token")
        try:
            token = jwt.decode(found[1], KeySet.import_key_set(dict(keys)), algorithms=ALGORITHMS)  # type: ignore[arg-type]
            rules = jwt.JWTClaimsRegistry(
                now=int(now),
                leeway=LEEWAY_SECONDS,
                iss={"essential": True, "value": ISSUER},
                aud={"essential": True, "value": self._app_id},
                exp={"essential": True},
            )
            rules.validate(token.claims)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise SignatureError(f"the token is not valid: {type(error).__name__}") from None
        self._check_activity(token.claims, token.header, hook.body, keys)
        return hook.body

    def _check_activity(
        self, claims: Mapping[str, Any], header: Mapping[str, Any], body: bytes, keys: Mapping[str, Any]
    ) -> None:
        """The token names where answers go, and its key the channels that it may speak for."""
        activity = read_object(body)
        if text_at(dict(claims), "serviceurl") != text_at(activity, "serviceUrl"):
            raise SignatureError("the token is for another service address")
        mine = [key for key in keys.get("keys", []) if key.get("kid") == header.get("kid")]
        endorsed = mine[0].get("endorsements") if mine else None
        if endorsed is not None and text_at(activity, "channelId") not in endorsed:
            raise SignatureError("the token's key does not endorse the channel")


def key_id(hook: Webhook) -> str:
    """The id of the key that the token says it was signed with, unverified: to know whether to fetch keys anew."""
    import base64  # a few lines need it, once for each unknown key
    import binascii

    found = _BEARER.fullmatch(hook.header("authorization"))
    if found is None:
        raise SignatureError("the header authorization must be Bearer and a token")
    head = found[1].partition(".")[0]
    try:
        return text_at(read_object(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))), "kid")
    except (binascii.Error, ValueError):
        raise SignatureError("the token can't be read") from None
