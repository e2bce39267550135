"""The pages over a real engine: its loop in a thread of its own, as under a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest
from flask.testing import FlaskClient

from agent_core.app import App
from agent_core.console.bridge import EngineBridge
from agent_core.console.wsgi import build
from agent_core.testing import test_app


@dataclass
class Element:
    """A tag of a page with its attributes and the text in it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Html(HTMLParser):
    """A page taken apart: its elements in order, without those in <template>, which nobody sees."""

    source: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[Element] = []
        self._templates = 0
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._templates += tag == "template"
        element = Element(tag, {name: value or "" for name, value in attrs})
        if not self._templates:
            self.elements.append(element)
        if tag not in ("input", "meta", "link", "br", "hr", "img"):
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        self._templates -= tag == "template"
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, css_class: str = "", **attributes: str) -> list[Element]:
        """Elements of this tag, class and these attributes."""
        return [
            element
            for element in self.elements
            if element.tag == tag
            and (not css_class or css_class in element.attributes.get("class", "").split())
            and all(element.attributes.get(name) == value for name, value in attributes.items())
        ]

    def one(self, tag: str, css_class: str = "", **attributes: str) -> Element:
        """The only such element."""
        (found,) = self.all(tag, css_class, **attributes)
        return found


@dataclass
class Site:
    """The pages of an app, and the engine behind them."""

    app: App
    bridge: EngineBridge
    client: FlaskClient

    def get(self, path: str, status: int = 200, **headers: str) -> Html:
        """A page."""
        answer = self.client.get(
            path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        assert answer.status_code == status, answer.text
        return Html(answer.text)

    def new_chat(self) -> tuple[str, dict[str, str]]:
        """Where the form of a new chat leads, and what it sends besides the text."""
        return self.form_of(self.get("/chat"))

    @staticmethod
    def form_of(page: Html) -> tuple[str, dict[str, str]]:
        """Where the form under a conversation leads, and what it sends besides the text."""
        form = page.one("form", "composer")
        hidden = page.all("input", type="hidden")
        return form.attributes["action"], {e.attributes["name"]: e.attributes["value"] for e in hidden}

    def say(self, text: str, path: str = "", status: int = 303) -> str:
        """Send a message by form; gives the address of the page that shows the answer."""
        action, fields = self.form_of(self.get(path)) if path else self.new_chat()
        answer = self.client.post(action, data={**fields, "text": text})
        assert answer.status_code == status, answer.text
        return answer.headers.get("Location", "")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def site(loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., Site]]:
    """Makes the pages over an app with these agents."""
    made: list[Site] = []

    def make(*agents: object, **settings: object) -> Site:
        app = test_app(*agents, **settings)
        bridge = EngineBridge(app.engine, loop, app.clock)
        made.append(Site(app, bridge, build(bridge, app.settings).test_client()))
        return made[-1]

    yield make
    for each in made:
        each.bridge.run(each.app.close())
