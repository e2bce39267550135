"""GitHub: events of a repository or an organisation become messages to an agent.

https://docs.github.com/webhooks
"""

from __future__ import annotations

from agent_core.channels.base import Channel, Event, Options, Receipt, plain
from agent_core.channels.payload import dig, read_object, text_at
from agent_core.channels.schemes.hmacs import META, HmacScheme
from agent_core.clock import Clock
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Wire


class GitHubOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for GitHub."""

    secret: tuple[str, ...] = ()
    """Secret of the webhook; several while it is changed."""


class GitHub(Channel):
    """A webhook of GitHub's."""

    Options = GitHubOptions
    people = False

    def __init__(self, name: str, options: GitHubOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = HmacScheme(META, self.secrets("secret"))

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed by GitHub. It signs no time: the id of the delivery is the guard against repetition."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """One event, from the person who caused it; those of one issue or pull request are one conversation."""
        kind = hook.header("x-github-event")
        if kind == "ping":
            return Receipt(ack=plain("pong"))
        if not body.lstrip().startswith(b"{"):
            body = hook.form().get("payload", "").encode("utf-8", "surrogatepass")
        payload = read_object(body)
        text = body.decode()
        number = text_at(payload, "issue", "number") or text_at(payload, "pull_request", "number")
        repository = text_at(payload, "repository", "full_name")
        event = Event(
            id=hook.header("x-github-delivery"),
            app=repository or text_at(payload, "organization", "login"),
            parts=(Text(f"GitHub event {kind}:\n{text}"),),
            sender=text_at(payload, "sender", "login"),
            group=f"{repository}#{number}" if number else "",
            metadata={"event": kind},
        )
        return Receipt(events=() if dig(payload, "sender", "type") == "Bot" else (event,))
