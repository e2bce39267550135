"""Passkeys as second factors (WebAuthn): a device's key for this site alone, opened by a finger, a face or a PIN.

<tenant>/passkey   <user>/<credential>             the public key, and how often it has signed
                   <user>/challenge/<challenge>    what a browser was asked to sign; once, within five minutes

https://www.w3.org/TR/webauthn-3/. A challenge remembers the site that it was given to, by its own name, and what it
is for: so what was signed for one approval is good for no other, and on no other site.
"""

from __future__ import annotations

import base64
import os
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from agent_core.clock import Clock
from agent_core.errors import ConditionError, InputError, NotFoundError, StepUpError
from agent_core.messages import Principal, from_record, to_record
from agent_core.security import audit
from agent_core.store.base import Absent, Delete, Equals, Key, Put, Store, Version, quoted

CHALLENGE_SECONDS = 300.0
MOST = 20
"""Passkeys of one user."""

_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
_WRONG = "this passkey did not sign what it was asked to, or too late: try again"


class Site(NamedTuple):
    """Where a browser sees us: `id` is the host without its port, which a passkey is bound to."""

    id: str
    origin: str

    @classmethod
    def of(cls, url: str) -> Site:
        """The site of a URL such as https://agents.example.com/console."""
        parts = urlsplit(url)
        return cls(parts.hostname or "", f"{parts.scheme}://{parts.netloc}")


class Passkey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A passkey as stored. `name` is what its owner calls it, `used` how often it has signed, as it says itself."""

    id: str
    tenant: str
    user: str
    name: str
    public_key: str
    used: int = 0
    made_at: float
    used_at: float = 0.0


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked to be signed. `subject` says what for: "register", or what would be agreed to."""

    subject: str
    site: str
    origin: str


class Passkeys:
    """Makes, proves, lists and removes them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def begin(self, who: Principal, site: Site) -> dict[str, Any]:
        """What a browser is told to make a new one (PublicKeyCredentialCreationOptions as JSON)."""
        # Loaded with the first passkey: few processes ever see one.
        from webauthn import generate_registration_options, options_to_json
        from webauthn.helpers.structs import (
            AuthenticatorSelectionCriteria,
            PublicKeyCredentialDescriptor,
            ResidentKeyRequirement,
            UserVerificationRequirement,
        )

        known = await self.list(who)
        if len(known) >= MOST:
            raise InputError(f"one has {MOST} passkeys at most: remove one first", field="name")
        options = generate_registration_options(
            rp_id=site.id,
            rp_name="Sampan",
            user_name=who.user,
            user_id=f"{quoted(who.tenant)}/{quoted(who.user)}".encode()[:64],
            challenge=await self._ask(who, site, "register"),
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.PREFERRED,
                user_verification=UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=[PublicKeyCredentialDescriptor(id=_bytes(one.id)) for one in known],
        )
        told: dict[str, Any] = msgspec.json.decode(options_to_json(options))
        return told

    async def register(self, who: Principal, credential: str, name: str) -> Passkey:
        """Keep what the browser made. Raises StepUpError where it is not what was asked for."""
        # As above.
        from webauthn import verify_registration_response
        from webauthn.helpers.exceptions import WebAuthnException

        made, asked, challenge = await self._answered(who, credential, "register")
        try:
            verified = verify_registration_response(
                credential=made,
                expected_challenge=challenge,
                expected_rp_id=asked.site,
                expected_origin=asked.origin,
                require_user_verification=True,
            )
        except (WebAuthnException, *_UNREADABLE) as error:
            raise StepUpError(_WRONG) from error
        passkey = Passkey(
            id=_text(verified.credential_id),
            tenant=who.tenant,
            user=who.user,
            name=name.strip()[:100] or "passkey",
            public_key=_text(verified.credential_public_key),
            used=verified.sign_count,
            made_at=self._clock.now(),
        )
        note = audit.entry(
            self._clock, who.tenant, "factor.added", by=who.user, subject=who.user, passkey=passkey.id
        )
        await self._store.write(Put(_place(who, passkey.id), to_record(passkey), when=(Absent(),)), note)
        return passkey

    async def ask(self, who: Principal, site: Site, subject: str) -> dict[str, Any]:
        """What a browser is told to have something signed (PublicKeyCredentialRequestOptions as JSON)."""
        # As above.
        from webauthn import generate_authentication_options, options_to_json
        from webauthn.helpers.structs import PublicKeyCredentialDescriptor, UserVerificationRequirement

        options = generate_authentication_options(
            rp_id=site.id,
            challenge=await self._ask(who, site, subject),
            allow_credentials=[
                PublicKeyCredentialDescriptor(id=_bytes(one.id)) for one in await self.list(who)
            ],
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        told: dict[str, Any] = msgspec.json.decode(options_to_json(options))
        return told

    async def prove(self, who: Principal, credential: str, subject: str) -> None:
        """See that the user's passkey signed for this; each challenge counts once. Raises StepUpError."""
        # As above.
        from webauthn import verify_authentication_response
        from webauthn.helpers.exceptions import WebAuthnException

        shown, asked, challenge = await self._answered(who, credential, subject)
        key = _place(who, str(shown.get("id", "")))
        record = (
            await self._store.get(key) if "/" not in key.sort.removeprefix(f"{quoted(who.user)}/") else None
        )
        if record is None:
            await self._refused(who)
            raise StepUpError(_WRONG)
        passkey = from_record(Passkey, record.fields)
        try:
            verified = verify_authentication_response(
                credential=shown,
                expected_challenge=challenge,
                expected_rp_id=asked.site,
                expected_origin=asked.origin,
                credential_public_key=_bytes(passkey.public_key),
                credential_current_sign_count=passkey.used,
                require_user_verification=True,
            )
        except (WebAuthnException, *_UNREADABLE) as error:
            await self._refused(who)
            raise StepUpError(_WRONG) from error
        after = msgspec.structs.replace(passkey, used=verified.new_sign_count, used_at=self._clock.now())
        try:
            await self._store.write(Put(key, to_record(after), when=(Version(record.version),)))
        except ConditionError as error:  # it signed twice at once: a copy of it may be about
            raise StepUpError(_WRONG) from error

    async def list(self, who: Principal) -> list[Passkey]:
        """A user's passkeys, oldest first."""
        found: list[Passkey] = []
        after = ""
        while True:
            page = await self._store.query(_partition(who), f"{quoted(who.user)}/", after=after, limit=1000)
            found += [from_record(Passkey, record.fields) for record in page.records]
            after = page.after
            if not after:
                return sorted(found, key=lambda one: one.made_at)

    async def remove(self, who: Principal, passkey_id: str, *, by: str = "") -> None:
        """Take one away; raises NotFoundError."""
        note = audit.entry(
            self._clock,
            who.tenant,
            "factor.removed",
            by=by or who.user,
            subject=who.user,
            passkey=passkey_id[:100],
        )
        try:
            await self._store.write(Delete(_place(who, passkey_id), when=(Equals("id", passkey_id),)), note)
        except ConditionError:
            raise NotFoundError(f"{who.user[:80]!r} has no passkey {passkey_id[:80]!r}") from None

    async def _ask(self, who: Principal, site: Site, subject: str) -> bytes:
        challenge = os.urandom(32)
        asked = Challenge(subject=subject, site=site.id, origin=site.origin)
        key = _asked_place(who, challenge)
        await self._store.write(Put(key, to_record(asked), expires_at=self._clock.now() + CHALLENGE_SECONDS))
        return challenge

    async def _answered(
        self, who: Principal, credential: str, subject: str
    ) -> tuple[dict[str, Any], Challenge, bytes]:
        """What a browser sent, and the challenge that it answers, which is used up by that."""
        try:
            shown = msgspec.json.decode(credential, type=dict[str, Any])
            client = msgspec.json.decode(_bytes(shown["response"]["clientDataJSON"]), type=dict[str, Any])
            challenge = str(client["challenge"])
            key = _asked_place(who, _bytes(challenge))
        except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
            raise StepUpError(_WRONG) from error
        record = await self._store.get(key)
        if record is None:
            raise StepUpError(_WRONG)
        asked = from_record(Challenge, record.fields)
        if asked.subject != subject:
            raise StepUpError(_WRONG)
        try:
            await self._store.write(Delete(key, when=(Equals("subject", subject),)))
        except ConditionError as error:  # somebody else was quicker with it
            raise StepUpError(_WRONG) from error
        return shown, asked, _bytes(challenge)

    async def _refused(self, who: Principal) -> None:
        await self._store.write(
            audit.entry(self._clock, who.tenant, "factor.refused", by=who.user, subject=who.user)
        )


def _partition(who: Principal) -> str:
    return f"{quoted(who.tenant)}/passkey"


def _place(who: Principal, name: str) -> Key:
    return Key(_partition(who), f"{quoted(who.user)}/{name[:500]}")


def _asked_place(who: Principal, challenge: bytes) -> Key:
    # Not among the passkeys: anybody with a login makes as many of these as they like.
    return Key(f"{quoted(who.tenant)}/challenge", f"{quoted(who.user)}/{_text(challenge)}")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
