"""Every error Sampan raises on purpose, with its HTTP status and whether trying again can help.

AgentError
|-- ConfigError            the project is set up wrongly; the message says how to mend it
|-- InputError             what the caller sent can't be used; names the field and what would be right
|   |-- MalformedError     not JSON, or not of the declared content type
|   |-- TooLargeError      over a size limit
|   |   |-- UriTooLongError      the path and query are
|   |   `-- HeadersTooLargeError  the headers are
|   |-- MediaTypeError     a content type that is not taken here
|   `-- KeyReusedError     the idempotency key was used before with another body
|-- SignatureError         a webhook that its service did not sign, or not now
|   `-- HandshakeError     somebody set up a webhook with the wrong token
|-- UnknownCallerError     no key or token that is good now; says how to get one
|-- StepUpError            a second factor is needed, or was not right
|-- NoFactorError          a second factor is needed, and the caller has none; says how to get one
|-- ScopeError             the caller is known, but may not do this; names the scope
|-- QuotaError             too many requests, or too many at once; says when to come back
|-- SlowRequestError       the request did not come to its end in time
|-- NotFoundError          no such run, session, agent or blob for this caller
|-- MethodError            the path exists, the method does not
|-- ForbiddenAddressError  a URL leads where this service does not go on anybody's word
|-- ConflictError          the state forbids it now
|   |-- RunningError       the run of this idempotency key has not finished yet
|   `-- SessionBusyError   the session is busy and its agent says "reject"
|-- LimitError             a limit of the run (steps, tool calls, tokens, money, time) was reached
|-- KilledError            an operator stopped the agent or the tenant
|-- CancelledError         the run was cancelled
|   `-- InterruptedByMessageError  a newer message of the session took its place
|-- WireError              no usable HTTP answer came
|   |-- ConnectError       no connection, or it broke before the answer began
|   |-- StalledError       a timeout: connect, first byte, between chunks or total
|   |-- CutError           the answer ended before its end
|   |-- ProtocolError      what came is not HTTP
|   `-- OversizeError      the answer is larger than we take
|-- ChannelError           a chat service did not take what we sent, for now
|   `-- ChannelRefusedError  it never will, as it is
|-- ModelError             the model did not give a usable reply
|   |-- ModelRefusedError  the provider refuses the request as it is (400, 401, 403, 404, 422)
|   |   `-- ContextLengthError  the prompt is longer than the model's window
|   |-- ModelBusyError     the provider is overloaded or limits the rate (429, 5xx)
|   |-- ModelStalledError  the provider stopped answering
|   |-- ModelCutError      the reply ended before its end
|   `-- ModelMalformedError  the reply is not in the provider's format
|-- ToolError              a tool failed; its message goes back to the model
|-- PluginError            a plugin failed; names the plugin
`-- StoreError             the store could not do it
    |-- ConditionError     a conditional write lost; carries the record that stood in the way
    |-- StoreBusyError     locked or throttled for longer than we wait
    `-- LeaseLostError     another worker took over the session; this one must not write
"""

from __future__ import annotations

from typing import Any, ClassVar


class AgentError(Exception):
    """The root of all errors raised on purpose.

    `status` is the HTTP status it answers with, `slug` the stable end of its problem `type` (RFC 9457),
    `retryable` says whether the same request may succeed later, `retry_after` (seconds) when that is known.
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "The service failed"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after

    def extras(self) -> dict[str, Any]:
        """Further members of the problem document."""
        return {}


class ConfigError(AgentError):
    """The project is set up wrongly; the message says how to mend it."""

    slug, title = "configuration", "The service is not set up rightly"


class InputError(AgentError):
    """What the caller sent can't be used; `field` is a JSON path such as `$.message`."""

    status, slug, title = 422, "invalid-input", "The request can't be used"

    def __init__(self, detail: str, *, field: str = "") -> None:
        super().__init__(detail)
        self.field = field

    def extras(self) -> dict[str, Any]:
        """The field at fault, where one is known."""
        return {"field": self.field} if self.field else {}


class MalformedError(InputError):
    """The body is not JSON, or not of the declared content type."""

    status, slug, title = 400, "malformed", "The request can't be read"


class TooLargeError(InputError):
    """The request is over a size limit."""

    status, slug, title = 413, "too-large", "The request is too large"


class UriTooLongError(TooLargeError):
    """The path and query are over their limit."""

    status, slug, title = 414, "uri-too-long", "The address is too long"


class HeadersTooLargeError(TooLargeError):
    """The request's headers are over their limit."""

    status, slug, title = 431, "headers-too-large", "The headers are too large"


class MediaTypeError(InputError):
    """The content type is not taken here."""

    status, slug, title = 415, "unsupported-media-type", "The content type is not taken"


class KeyReusedError(InputError):
    """The idempotency key was used before with another body."""

    slug, title = "idempotency-key-reused", "The idempotency key belongs to another request"


class SignatureError(AgentError):
    """A webhook that can't be shown to come from its service: not signed, wrongly signed, or not signed just now.

    It says nothing of what was expected.
    """

    status, slug, title = 401, "webhook-unverified", "The webhook is not signed rightly"


class HandshakeError(SignatureError):
    """Somebody who does not know the token wants webhooks to be sent here."""

    status, slug, title = 403, "webhook-handshake", "The webhook's token is wrong"


class UnknownCallerError(AgentError):
    """Nobody is known to be calling; `given` says that something was shown which is not good (any more)."""

    status, slug, title = 401, "unauthenticated", "Who is calling?"

    def __init__(self, detail: str, *, given: bool = False) -> None:
        super().__init__(detail)
        self.given = given


class StepUpError(AgentError):
    """The caller must show a second factor, freshly.

    https://www.rfc-editor.org/rfc/rfc9470
    `asked` is what it would be for, where that is known: run, tool, hash of the arguments, until when.
    """

    status, slug, title = 401, "step-up", "A second factor is needed"

    def __init__(
        self, detail: str, *, retry_after: float | None = None, asked: dict[str, Any] | None = None
    ) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.asked = asked or {}

    def extras(self) -> dict[str, Any]:
        """What the factor is asked for."""
        return {"asked": self.asked} if self.asked else {}


class NoFactorError(AgentError):
    """This takes a second factor, and the caller has none to show."""

    status, slug, title = 403, "no-factor", "A second factor must be set up first"


class ScopeError(AgentError):
    """The caller may not do this."""

    status, slug, title = 403, "scope", "The key does not allow this"

    def __init__(self, detail: str, *, scope: str) -> None:
        super().__init__(detail)
        self.scope = scope

    def extras(self) -> dict[str, Any]:
        """The scope that is missing."""
        return {"scope": self.scope}


class QuotaError(AgentError):
    """Too many requests in a while, or too many at once.

    https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
    """

    status, slug, title, retryable = 429, "quota-exceeded", "Too many requests", True

    def __init__(self, detail: str, *, policy: str, retry_after: float) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.policy = policy

    def extras(self) -> dict[str, Any]:
        """Whose limit it was."""
        return {"violated_policies": [self.policy]}


class SlowRequestError(AgentError):
    """The request did not come to its end in time."""

    status, slug, title, retryable = 408, "slow-request", "The request came too slowly", True


class NotFoundError(AgentError):
    """No such run, session, agent or blob for this caller."""

    status, slug, title = 404, "not-found", "Not found"


class MethodError(AgentError):
    """The path exists, the method does not."""

    status, slug, title = 405, "method-not-allowed", "The method is not allowed here"


class ForbiddenAddressError(AgentError):
    """A URL leads where this service does not go on anybody's word: a private network, a forbidden host, a bad form."""

    status, slug, title = 422, "forbidden-address", "This address is not gone to"


class ConflictError(AgentError):
    """The state of the thing forbids it now."""

    status, slug, title = 409, "conflict", "The state does not allow it"


class RunningError(ConflictError):
    """The run of this idempotency key has not finished yet."""

    slug, title, retryable = "run-in-progress", "The run is still in progress", True

    def __init__(self, detail: str, *, run_id: str) -> None:
        super().__init__(detail, retry_after=1.0)
        self.run_id = run_id

    def extras(self) -> dict[str, Any]:
        """The run to look at meanwhile."""
        return {"run_id": self.run_id}


class SessionBusyError(ConflictError):
    """The session is busy and its agent says "reject"."""

    slug, title, retryable = "session-busy", "The session is busy", True


class LimitError(AgentError):
    """A limit of the run was reached: steps, tool_calls, tokens, money or time."""

    status, slug, title = 422, "limit-reached", "A limit of the run was reached"

    def __init__(self, detail: str, *, limit: str) -> None:
        super().__init__(detail)
        self.limit = limit

    def extras(self) -> dict[str, Any]:
        """Which limit it was."""
        return {"limit": self.limit}


class KilledError(AgentError):
    """An operator stopped this agent, or all that runs for this tenant."""

    status, slug, title, retryable = 503, "killed", "Stopped by an operator", True


class CancelledError(AgentError):
    """The run was cancelled by its caller."""

    status, slug, title = 409, "cancelled", "The run was cancelled"


class InterruptedByMessageError(CancelledError):
    """A newer message of the session took the run's place."""

    slug, title = "interrupted", "A newer message took its place"


class WireError(AgentError):
    """No usable HTTP answer came from a service we call."""

    status, slug, title, retryable = 502, "upstream", "A service behind this one did not answer", True


class ConnectError(WireError):
    """No connection could be made, or it broke before the answer began."""


class StalledError(WireError):
    """A timeout passed: connect, first_byte, between_chunks or total."""

    status = 504

    def __init__(self, detail: str, *, timeout: str) -> None:
        super().__init__(detail)
        self.timeout = timeout


class CutError(WireError):
    """The answer ended before its end."""


class ProtocolError(WireError):
    """What came back is not HTTP."""


class OversizeError(WireError):
    """The answer is larger than we take."""

    retryable = False


class ChannelError(AgentError):
    """A chat service did not take what we sent, or is out of reach; it may later."""

    status, slug, title, retryable = 502, "channel", "The chat service did not take it", True


class ChannelRefusedError(ChannelError):
    """A chat service refuses what we sent as it is; sending it again does not help."""

    slug, title, retryable = "channel-refused", "The chat service refuses it", False


class ModelError(AgentError):
    """The model did not give a usable reply."""

    status, slug, title = 502, "model", "The model did not answer rightly"


class ModelRefusedError(ModelError):
    """The provider refuses the request as it is; sending it again does not help."""

    slug, title = "model-refused", "The model's provider refused the request"


class ContextLengthError(ModelRefusedError):
    """The prompt is longer than the model's window; a shorter one may be taken."""

    slug, title = "context-length", "The prompt is longer than the model's window"


class ModelBusyError(ModelError):
    """The provider is overloaded, out of reach or limits the rate."""

    status, slug, title, retryable = 503, "model-busy", "The model is not available now", True


class ModelStalledError(ModelError):
    """The provider stopped answering."""

    status, slug, title, retryable = 504, "model-stalled", "The model did not answer in time", True


class ModelCutError(ModelError):
    """The reply ended before its end."""

    slug, title, retryable = "model-cut", "The model's answer broke off", True


class ModelMalformedError(ModelError):
    """The reply is not in the provider's format."""

    slug, title, retryable = "model-malformed", "The model's answer can't be read", True


class ToolError(AgentError):
    """A tool failed; raise it in a tool to tell the model why in your own words."""

    slug, title = "tool", "A tool failed"


class PluginError(AgentError):
    """A plugin failed; names the plugin."""

    slug, title = "plugin", "A plugin failed"

    def __init__(self, detail: str, *, plugin: str) -> None:
        super().__init__(detail)
        self.plugin = plugin

    def extras(self) -> dict[str, Any]:
        """The plugin at fault."""
        return {"plugin": self.plugin}


class StoreError(AgentError):
    """The store could not do it."""

    status, slug, title = 503, "store", "The store is not available"


class ConditionError(StoreError):
    """A conditional write lost.

    `index` is the place of the failed operation in the transaction, `current` the fields of the record as it
    stands (None where there is none).
    """

    status, slug, title, retryable = 409, "write-conflict", "Somebody else wrote first", True

    def __init__(self, detail: str, *, index: int, current: dict[str, Any] | None) -> None:
        super().__init__(detail)
        self.index = index
        self.current = current


class StoreBusyError(StoreError):
    """The store was locked or throttled for longer than we wait."""

    slug, retryable = "store-busy", True


class LeaseLostError(StoreError):
    """Another worker took over the session; this one must not write."""

    slug, title, retryable = "lease-lost", "Another worker took over", True
