"""GitHub: events of a repository become messages to an agent; with a token, who names it in a comment is answered.

https://docs.github.com/webhooks, https://docs.github.com/rest/issues/comments, https://docs.github.com/rest/pulls/comments
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from agent_core.blobs.base import Blob
from agent_core.channels.base import Channel, Event, Letter, Options, Receipt, attachment, plain
from agent_core.channels.calls import json_request, read_answer, refused
from agent_core.channels.media import media_part
from agent_core.channels.payload import dig, read_json, read_object, text_at
from agent_core.channels.schemes.hmacs import META, HmacScheme
from agent_core.channels.tokens import AccessToken
from agent_core.clock import Clock
from agent_core.errors import AgentError, ChannelError, ChannelRefusedError, ConfigError
from agent_core.messages import Part, Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Request, Response, Wire

VERSION = "2022-11-28"
"""Of the REST API: https://docs.github.com/rest/about-the-rest-api/api-versions"""

SPOKEN = {
    ("issue_comment", "created"): "comment",
    ("pull_request_review_comment", "created"): "comment",
    ("issues", "opened"): "issue",
    ("pull_request", "opened"): "pull_request",
}
"""Events in which somebody says something, and where their words stand."""

PAGE = 100
"""Comments in one page, the most there are."""

MOST_PAGES = 10
"""Of comments that one is looked for in; a thousand in three days is more than people write."""

_FILES = re.compile(
    r"https://(?:github\.com/user-attachments/|(?:private-)?user-images\.githubusercontent\.com/)[^\s?#]+(?:\?[^\s#]*)?"
)
"""Where GitHub keeps what people put into comments. Anything else there may be somebody's private file, which our token
opens, and a stranger's comment must not."""

_ADDRESS = re.compile(r"([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)#(\d+)")
_PICTURE = re.compile(r"!\[[^\]]*\]\((https?://[^\s)]+)\)|<img[^>]*\bsrc=\"(https?://[^\"]+)\"[^>]*>")


class GitHubOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for GitHub."""

    secret: tuple[str, ...] = ()
    """Secret of the webhook; several while it is changed."""

    login: str = ""
    """Name of the account or app (`sampan-bot`) that is spoken to as @name; with a token, only that is answered."""

    token: str = ""
    """A token that may write comments: answers go out with it. Without it, and without an app, nobody is answered."""

    app_id: str = ""
    """Id of a GitHub App that answers in place of a token; it needs `private_key`."""

    private_key: str = ""
    """Private key of that app, as PEM; line ends may be written as backslash and n."""

    api: str = "https://api.github.com"
    """Base URL of the REST API."""

    files: str = ""
    """Base URL that pictures of comments may lie under besides GitHub's own, such as an Enterprise Server's."""


class GitHub(Channel):
    """A webhook of GitHub's, and comments on issues and pull requests."""

    Options = GitHubOptions
    people = False
    limit = 65_000  # 65,536 with the mark that a comment is known again by

    def __init__(self, name: str, options: GitHubOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._scheme = HmacScheme(META, self.secrets("secret"))
        self._talks = bool(options.token or options.app_id)
        self.people = self._talks
        self._tokens: dict[str, AccessToken] = {}
        if self._talks and not options.login:
            raise ConfigError("the login is not set: whom would people speak to?")
        if options.app_id and "PRIVATE KEY" not in options.private_key:
            raise ConfigError("the app's private key (PEM) is not set, or none")

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed by GitHub. It signs no time: the id of what was said guards against repetition."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """One event, from the person who caused it; those of one issue or pull request are one conversation."""
        kind = hook.header("x-github-event")
        if kind == "ping":
            return Receipt(ack=plain("pong"))
        if not body.lstrip().startswith(b"{"):
            body = hook.form().get("payload", "").encode("utf-8", "surrogatepass")
        payload = read_object(body)
        if dig(payload, "sender", "type") == "Bot":
            return Receipt()
        number = text_at(payload, "issue", "number") or text_at(payload, "pull_request", "number")
        repository = text_at(payload, "repository", "full_name")
        event = Event(
            id=hook.header("x-github-delivery"),
            app=repository or text_at(payload, "organization", "login"),
            parts=(Text(f"GitHub event {kind}:\n{body.decode()}"),),
            sender=text_at(payload, "sender", "login"),
            group=f"{repository}#{number}" if number else "",
            metadata={"event": kind},
        )
        return self._spoken(event, kind, payload) if self._talks else Receipt(events=(event,))

    def _spoken(self, event: Event, kind: str, payload: Mapping[str, Any]) -> Receipt:
        """What was said to us, where somebody did: it names us, and is not our own."""
        place = SPOKEN.get((kind, text_at(payload, "action")))
        login = self.options.login
        if place is None or not event.group or event.sender.removesuffix("[bot]").lower() == login.lower():
            return Receipt()
        words = text_at(payload, place, "body")
        named = re.compile(rf"[ \t]*(?<![\w.])@{re.escape(login)}(?![A-Za-z0-9-])[,:]*[ \t]*", re.IGNORECASE)
        if not named.search(words):
            return Receipt()
        if place != "comment":
            words = f"{text_at(payload, place, 'title')}\n\n{words}"
        parts = self._parts(named.sub(" ", words, count=1))
        options = {"installation": text_at(payload, "installation", "id")}
        # All of this is of the signed body; the event's name and the delivery's id are of headers, which nobody signs.
        if place == "comment" and "pull_request" in payload:
            options["review"] = text_at(payload, "comment", "in_reply_to_id") or text_at(
                payload, "comment", "id"
            )
        options = {name: value for name, value in options.items() if value}
        said = {
            "id": f"{event.group}/{place}/{text_at(payload, place, 'id') or event.id}",
            "parts": parts,
            "address": event.group,
            "options": options,
        }
        told = Event(**{name: getattr(event, name) for name in event.__struct_fields__} | said)
        return Receipt(events=(told,) if parts else ())

    def _parts(self, words: str) -> tuple[Part, ...]:
        """The words, and the pictures that were put between them and lie with GitHub."""
        pictures = [one or other for one, other in _PICTURE.findall(words)]
        ours = [url for url in pictures if self._ours(url)]
        for url in ours:
            words = re.sub(rf"!\[[^\]]*\]\({re.escape(url)}\)|<img[^>]*{re.escape(url)}[^>]*>", "", words)
        found: list[Part] = [Text(words.strip())] if words.strip() else []
        found += [media_part("image/png", ref=attachment(self.name, url)) for url in ours]
        return tuple(found)

    async def send(self, letter: Letter) -> str:
        """Write a comment, in its review thread where the question stood in one; a hidden mark makes it known again."""
        repository, number = self._place(letter)
        review = letter.options.get("review", "")
        path = (
            f"/repos/{repository}/pulls/{number}/comments/{review}/replies"
            if review
            else f"/repos/{repository}/issues/{number}/comments"
        )
        body = {"body": f"{letter.text}\n\n{_mark(letter)}"}
        return text_at(await self._call("POST", path, letter.options, body), "id")

    async def find(self, letter: Letter) -> str:
        """The comment with the letter's mark, among the latest ones."""
        repository, number = self._place(letter)
        kind = "pulls" if letter.options.get("review") else "issues"
        latest = "sort=created&direction=desc&" if kind == "pulls" else ""
        # Comments of an issue come oldest first: those of the last days alone, a hundred at once.
        since = self.clock.now() - 3 * 86_400
        path = f"/repos/{repository}/{kind}/{number}/comments?{latest}per_page={PAGE}&since={_stamp(since)}"
        mark = _mark(letter)
        for page in range(1, MOST_PAGES + 1):
            answer = await self._call("GET", f"{path}&page={page}", letter.options)
            found = answer if isinstance(answer, list) else []
            for comment in found:
                if mark in text_at(comment, "body"):
                    return text_at(comment, "id")
            if len(found) < PAGE:
                break
        return ""

    async def fetch(self, handle: str) -> Blob:
        """A picture of a comment."""
        if not self._ours(handle):
            raise ChannelRefusedError("the picture does not lie with GitHub")
        asks = handle.startswith("https://github.com/") or not _FILES.fullmatch(handle)
        headers = {"authorization": f"Bearer {self.options.token}"} if self.options.token and asks else {}
        blob = await self.download(handle, "GitHub's picture", headers)
        if not blob.media_type.startswith("image/"):
            raise ChannelRefusedError("what lies there is no picture")
        return blob

    def _ours(self, url: str) -> bool:
        base = self.options.files
        plain_path = not re.search(r"/\.{1,2}(?:/|$)|%2e|%2f|\\", url, re.IGNORECASE)
        return plain_path and (bool(_FILES.fullmatch(url)) or (bool(base) and url.startswith(f"{base}/")))

    def _place(self, letter: Letter) -> tuple[str, str]:
        found = _ADDRESS.fullmatch(letter.address)
        if found is None:
            raise ChannelRefusedError(f"{letter.address[:80]!r} is no issue of a repository")
        return found[1], found[2]

    async def _call(
        self, method: str, path: str, options: Mapping[str, str], body: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the REST API and give its JSON; raises a ChannelError."""

        async def send(token: str) -> Response:
            headers = {
                "accept": "application/vnd.github+json",
                "x-github-api-version": VERSION,
                "user-agent": "sampan",
            }
            url = f"{self.options.api}{path}"
            if body is not None:
                return await self.wire.send(json_request(method, url, body, headers, token=token))
            headers["authorization"] = f"Bearer {token}"
            return await self.wire.send(Request(method=method, url=url, headers=headers))

        if self.options.token:
            answer = await send(self.options.token)
        else:
            answer = await self._token(options.get("installation", "")).call(
                send, lambda one: one.status == 401
            )
        if not 200 <= answer.status < 300:
            raise self._refusal(answer, f"GitHub's {method} {path.partition('?')[0]}")
        try:
            return read_json(answer.body)
        except AgentError as error:
            raise ChannelError(f"GitHub answered with no JSON: {error}") from None

    def _refusal(self, answer: Response, what: str) -> AgentError:
        """A limit may be a 403, too. https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api"""
        headers, now = answer.headers, self.clock.now()
        if answer.status == 403 and headers.get("x-ratelimit-remaining") == "0":
            reset = headers.get("x-ratelimit-reset", "")
            wait = max(float(reset) - now, 1.0) if reset.isdigit() else 60.0
            return ChannelError(f"{what} answered 403: the limit is reached", retry_after=wait)
        if answer.status == 403 and headers.get("retry-after", "").isdigit():
            return ChannelError(f"{what} answered 403: too fast", retry_after=float(headers["retry-after"]))
        return refused(answer, now, what)

    def _token(self, installation: str) -> AccessToken:
        """The app's token for one installation; GitHub gives it for an hour."""
        if not installation.isdigit():
            raise ChannelRefusedError("the event did not say of which installation of the app it is")

        async def fetch() -> tuple[str, float]:
            path = f"/app/installations/{installation}/access_tokens"
            request = json_request(
                "POST",
                f"{self.options.api}{path}",
                {},
                {
                    "accept": "application/vnd.github+json",
                    "x-github-api-version": VERSION,
                    "user-agent": "sampan",
                },
                token=self._app_token(),
            )
            answer = read_answer(await self.wire.send(request), self.clock.now(), "GitHub's access_tokens")
            return text_at(answer, "token"), 3600.0

        return self._tokens.setdefault(installation, AccessToken(fetch, self.clock))

    def _app_token(self) -> str:
        """What shows that it is the app: signed with its key, for nine minutes (ten are the most)."""
        # Loaded with the first answer of an app.
        from joserfc import jwt
        from joserfc.jwk import RSAKey

        now = int(self.clock.now())
        claims = {"iat": now - 60, "exp": now + 540, "iss": self.options.app_id}
        key = RSAKey.import_key(self.options.private_key.replace("\\n", "\n"))
        return jwt.encode({"alg": "RS256"}, claims, key)


def _mark(letter: Letter) -> str:
    """An HTML comment, which nobody sees."""
    return f"<!-- sampan:{hashlib.sha256(letter.id.encode()).hexdigest()[:32]} -->"


def _stamp(at: float) -> str:
    # Only where a comment is looked for, after a crash.
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
