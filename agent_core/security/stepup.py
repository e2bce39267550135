"""Step-up: somebody who is known shows once more, with a second factor, that it is them.

For tool calls that want it (`stepup=True`), and for what admins do: whoever has a factor is asked for it, and where
SAMPAN_STEPUP is `required` nobody can do without one.
"""

from __future__ import annotations

from agent_core.clock import Clock
from agent_core.errors import ConfigError, NoFactorError, StepUpError
from agent_core.messages import Principal
from agent_core.security.passkeys import Passkeys
from agent_core.security.seal import Seal
from agent_core.security.totp import Factors
from agent_core.security.visitor import Caller
from agent_core.settings import Settings
from agent_core.store.base import Store

HEADER = "x-sampan-code"
FRESH_SECONDS = 300.0
"""How long ago somebody may have shown a second factor to the OpenID issuer; RFC 9470 calls it max_age."""

LEEWAY_SECONDS = 60.0


class StepUp:
    """Asks for a second factor, whichever somebody has."""

    def __init__(self, settings: Settings, store: Store, clock: Clock) -> None:
        if settings.stepup not in ("", "required"):
            raise ConfigError(f"SAMPAN_STEPUP={settings.stepup}: there is `required`, or nothing")
        self.factors = Factors(store, Seal(settings.seal_keys), clock)
        self.passkeys = Passkeys(store, clock)
        self._required = settings.stepup == "required"
        self._clock = clock

    async def prove(self, who: Principal, code: str, subject: str = "") -> None:
        """See that it is the user: by six digits, or by what a passkey signed for this `subject`.

        Raises StepUpError.
        """
        if code.lstrip().startswith("{"):
            await self.passkeys.prove(who, code, subject)
        else:
            await self.factors.prove(who, code)

    async def has(self, who: Principal) -> bool:
        """Whether the user has a second factor."""
        return await self.factors.has(who) or bool(await self.passkeys.list(who))

    async def check(self, caller: Caller, code: str, what: str) -> None:
        """Let an admin's act through. Raises StepUpError, or NoFactorError where there must be one."""
        if self.fresh(caller):
            return
        if not await self.has(caller.principal):
            if self._required:
                raise NoFactorError(
                    f"{what} needs a second factor here, and {caller.principal.user[:80]!r} has none: "
                    "`sampan mfa add`, or a passkey in the console"
                )
            return
        if not code:
            raise StepUpError(
                f"{what} needs a second factor: send six digits of your authenticator app in the header X-Sampan-Code"
            )
        await self.prove(caller.principal, code, what)

    def fresh(self, caller: Caller) -> bool:
        """Whether the caller's token says that a second factor was shown lately."""
        age = self._clock.now() - caller.stepped_at
        return caller.stepped_at > 0 and -LEEWAY_SECONDS <= age <= FRESH_SECONDS + LEEWAY_SECONDS
