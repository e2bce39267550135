"""The console in a real browser, against a real server: streaming, tool calls, reload, no JavaScript, a phone."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from agent_core import Agent, ToolCall, tool
from agent_core.api.asgi import build
from agent_core.app import build_app
from agent_core.console.asgi import Pages
from agent_core.messages import Chunk, Message, Prompt, Reply, Usage
from agent_core.settings import Settings

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 640}
ANSWER = ["Your order ", "**4711** is ", "on its way.\n\n| Step | Cost |\n|:--|--:|\n| Sent | 4.90 |\n"]
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script> ![p](https://evil.example/p.png)"


class PacedModel:
    """Says what it is asked for, piece by piece; after the first piece it waits until the test lets it go on."""

    name = "openai:gpt-5-mini"
    tools = True
    context_window = 100_000

    def __init__(self) -> None:
        self._go_on = threading.Semaphore(0)

    def go_on(self) -> None:
        """Let one waiting answer be finished."""
        self._go_on.release()

    async def reply(self, prompt: Prompt) -> Reply:
        return self._made(prompt)

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        reply = self._made(prompt)
        first, *others = ANSWER if reply.message.text == "".join(ANSWER) else [reply.message.text]
        yield Chunk(text=first)
        if others and not await asyncio.to_thread(self._go_on.acquire, timeout=60):
            raise AssertionError("the test did not let the answer go on")
        for piece in others:
            yield Chunk(text=piece)
        yield Chunk(reply=reply)

    async def close(self) -> None:
        pass

    def _made(self, prompt: Prompt) -> Reply:
        last = prompt.messages[-1]
        usage = Usage(input=1000, output=100)
        if "order" in last.text:
            calls = (ToolCall(id="c1", name="order_status", arguments='{"order_id":"4711"}'),)
            message = Message(role="assistant", tool_calls=calls)
            return Reply(message=message, usage=usage, finish="tool_calls")
        text = (
            "".join(ANSWER) if last.role == "tool" else EVIL if "evil" in last.text else "Hello, I am here."
        )
        return Reply(message=Message.of("assistant", text), usage=usage)


@tool
def order_status(order_id: str) -> str:
    """Where an order is now."""
    return f"order {order_id}: <sent>"


class Served:
    """The application behind uvicorn on a free port of this machine, in a thread of its own."""

    def __init__(self, model: PacedModel) -> None:
        agent = Agent(name="bookshop", model=model, tools=[order_status], description="About your orders.")
        app = build_app(Settings.from_env({}, store="memory"), agents=[agent])
        pages = Pages(app.engine, app.settings, app.clock)
        asgi = build(app.engine, app.settings, clock=app.clock, mounts=[("/console", pages)])
        config = uvicorn.Config(asgi, host="127.0.0.1", port=0, log_level="warning", loop="asyncio")
        self._server = uvicorn.Server(config)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup()
        self._ready.set()
        await self._server.main_loop()
        await self._server.shutdown()

    def start(self) -> str:
        self._thread.start()
        assert self._ready.wait(30), "the server did not start"
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)


@pytest.fixture(scope="module")
def model() -> PacedModel:
    return PacedModel()


@pytest.fixture(scope="module")
def url(model: PacedModel) -> Iterator[str]:
    served = Served(model)
    yield served.start() + "/console"
    served.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no Chromium found; `make setup` installs it from the system's packages"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One visitor: a page, and all that went wrong in it."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(
            **{"viewport": DESKTOP, "locale": "en-US", **options}
        )
        self.context.set_default_timeout(20_000)
        self.url = url
        self.troubles: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", lambda dialog: self.troubles.append(f"dialog {dialog.message}"))
        self.page.on("request", self._check)
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.log('CSP', e.violatedDirective, e.blockedURI))"
        )
        self.page.goto(f"{url}/chat")

    def _check(self, request: Any) -> None:
        if not request.url.startswith(self.url.removesuffix("/console")):
            self.troubles.append(f"reached for {request.url}")

    def say(self, text: str) -> None:
        self.page.fill("#text", text)
        self.page.click("button[type=submit]")

    def end(self) -> None:
        self.context.close()
        assert self.troubles == []


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Any]:
    visits: list[Visit] = []

    def make(**options: Any) -> Visit:
        visits.append(Visit(browser, url, **options))
        return visits[-1]

    yield make
    for each in visits:
        each.end()


MEASURE = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes]));
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const pixels = canvas.getImageData(0, 0, image.width, image.height).data;
  const light = [], colours = new Set();
  for (let at = 0; at < pixels.length; at += 4) {
    light.push(0.2126 * pixels[at] + 0.7152 * pixels[at + 1] + 0.0722 * pixels[at + 2]);
    colours.add((pixels[at] << 16) | (pixels[at + 1] << 8) | pixels[at + 2]);
  }
  const mean = light.reduce((sum, each) => sum + each) / light.length;
  const variance = light.reduce((sum, each) => sum + (each - mean) ** 2, 0) / light.length;
  return { width: image.width, height: image.height, mean, variance, colours: colours.size };
}"""

CONTRAST = """(selector) => {
  const parse = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const element = document.querySelector(selector);
  const ink = light(parse(getComputedStyle(element).color));
  let behind = element;
  const ground = (each) => parse(getComputedStyle(each).backgroundColor);
  while (behind.parentElement && (ground(behind)[3] ?? 1) === 0) behind = behind.parentElement;
  const paper = light(ground(behind));
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
}"""


@pytest.fixture
def measured(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    """Takes a screenshot, leaves it in the test's folder and says what is on it."""
    lens = browser.new_page()

    def measure(page: Page, name: str) -> dict[str, float]:
        shot = page.screenshot(path=tmp_path / f"{name}.png")
        found: dict[str, float] = lens.evaluate(MEASURE, base64.b64encode(shot).decode())
        return found

    yield measure
    lens.close()


def assert_in_view(page: Page, *selectors: str) -> None:
    """Each is in the window as a whole, and the page does not scroll sideways."""
    size = page.viewport_size
    assert size
    for selector in selectors:
        box = page.locator(selector).first.bounding_box()
        assert box, selector
        assert box["width"] > 10, selector
        assert box["height"] > 10, selector
        assert box["x"] >= 0, selector
        assert box["y"] >= 0, selector
        assert box["x"] + box["width"] <= size["width"], selector
        assert box["y"] + box["height"] <= size["height"], selector
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_answer_streams_shows_its_tool_call_and_survives_a_reload(
    visit: Any, model: PacedModel, measured: Any
) -> None:
    visitor = visit()
    page = visitor.page
    expect(page.locator("h1")).to_have_text("What can I do for you?")
    visitor.say("Where is my order 4711?")
    expect(page.locator(".user .text")).to_have_text("Where is my order 4711?")
    expect(page.locator(".tool")).to_have_attribute("data-state", "done")
    words = page.locator(".assistant .text")
    expect(words).to_have_text("Your order ")
    assert page.locator(".assistant").get_attribute("aria-busy") == "true"
    assert page.locator(".markdown").count() == 0
    expect(page.locator("#status")).to_have_text("Answering …")
    assert re.search(r"/console/chat/\w+\?run=\w+$", page.url)
    half = measured(page, "streaming")
    model.go_on()
    expect(page.locator(".markdown strong")).to_have_text("4711")
    expect(page.locator("#status")).to_have_text("The answer is complete.")
    expect(page.locator(".assistant[aria-busy]")).to_have_count(0)
    assert re.search(r"/console/chat/\w+$", page.url)
    page.click(".tool summary")
    expect(page.locator(".tool .result")).to_have_text("order 4711: <sent>")
    expect(page.locator(".tool .arguments")).to_have_text('{\n  "order_id": "4711"\n}')
    shown = page.locator("#log").inner_text()
    full = measured(page, "answered")
    assert full["colours"] > half["colours"] > 20
    page.reload()
    page.click(".tool summary")
    assert page.locator("#log").inner_text() == shown
    assert_in_view(page, "header", "#composer", "#text", "button[type=submit]")


def test_a_reload_in_the_middle_of_an_answer_still_gets_it(visit: Any, model: PacedModel) -> None:
    visitor = visit()
    page = visitor.page
    visitor.say("And my order?")
    expect(page.locator(".assistant .text")).to_have_text("Your order ")
    page.reload()
    expect(page.locator("#status")).to_have_text("The answer is on its way …")
    model.go_on()
    expect(page.locator(".markdown strong")).to_have_text("4711")
    expect(page.locator(".user .text")).to_have_text("And my order?")


def test_a_conversation_goes_on_and_the_lists_know_it(visit: Any) -> None:
    visitor = visit()
    page = visitor.page
    visitor.say("Hello there, first message")
    expect(page.locator(".markdown")).to_have_text("Hello, I am here.")
    page.fill("#text", "second message")
    page.press("#text", "Shift+Enter")
    page.locator("#text").press_sequentially("second line")
    page.press("#text", "Enter")
    expect(page.locator(".markdown")).to_have_count(2)
    expect(page.locator(".user .text").nth(1)).to_have_text(
        "second message\nsecond line", use_inner_text=True
    )
    page.click("nav a:nth-child(2)")
    page.click("text=Hello there, first message")
    expect(page.locator(".user")).to_have_count(2)
    page.locator(".assistant .meta a").first.click()
    expect(page.locator(".steps li")).to_have_count(1)
    expect(page.locator("dl")).to_contain_text("$0.00045")  # 1,000 x 0.25 + 100 x 2 millionths
    expect(page.locator("dl")).to_contain_text("1,000 in, 100 out")


def test_hostile_words_of_a_model_are_shown_as_words(visit: Any) -> None:
    visitor = visit()
    page = visitor.page
    visitor.say("say something evil")
    expect(page.locator(".markdown")).to_contain_text("<script>alert(2)</script>")
    assert page.locator("#log img").count() == 0
    assert page.locator("#log script").count() == 0
    page.reload()
    expect(page.locator(".markdown")).to_contain_text("https://evil.example/p.png")


def test_a_message_the_server_refuses_stays_in_the_box(visit: Any) -> None:
    visitor = visit()
    page = visitor.page
    page.evaluate("document.getElementById('composer').dataset.session = 'not a session id'")
    visitor.say("keep me")
    expect(page.locator(".failure")).to_contain_text("The message was not sent")
    expect(page.locator("#text")).to_have_value("keep me")
    assert page.locator(".user").count() == 0
    # The browser itself notes every answer of status 400 and above.
    assert len(visitor.troubles) == 1
    assert "422" in visitor.troubles.pop()


def test_a_lost_connection_keeps_the_message_and_sends_it_once(visit: Any) -> None:
    visitor = visit()
    page = visitor.page
    visitor.context.set_offline(True)
    visitor.say("Hello in a tunnel")
    expect(page.locator(".failure")).to_contain_text("The connection was lost")
    expect(page.locator("#text")).to_have_value("Hello in a tunnel")
    visitor.context.set_offline(False)
    page.click("button[type=submit]")
    expect(page.locator(".markdown")).to_have_text("Hello, I am here.")
    page.reload()
    expect(page.locator(".user")).to_have_count(1)
    visitor.troubles = [trouble for trouble in visitor.troubles if "ERR_INTERNET_DISCONNECTED" not in trouble]


def test_all_of_it_works_without_javascript(visit: Any, model: PacedModel, measured: Any) -> None:
    visitor = visit(java_script_enabled=False)
    page = visitor.page
    visitor.say("Where is my order?")
    expect(page.locator(".markdown strong")).to_have_text("4711")
    expect(page.locator(".tool code")).to_have_text("order_status")
    page.click(".tool summary")
    expect(page.locator(".tool .result")).to_be_visible()
    visitor.say("Thank you")
    expect(page.locator(".markdown")).to_have_count(2)
    page.reload()
    expect(page.locator(".user")).to_have_count(2)
    assert_in_view(page, "#composer", "button[type=submit]")
    page.click("text=中文")
    expect(page.locator("button[type=submit]")).to_have_text("发送")
    page.click("nav a:nth-child(3)")
    expect(page.locator(".cards li")).not_to_have_count(0)
    assert measured(page, "no-javascript")["variance"] > 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("size", "locale"), [(DESKTOP, "en-US"), (PHONE, "zh-CN")], ids=["desktop", "phone"])
def test_each_look_of_the_pages(
    visit: Any, measured: Any, model: PacedModel, scheme: str, size: dict[str, int], locale: str
) -> None:
    visitor = visit(viewport=size, color_scheme=scheme, locale=locale)
    page = visitor.page
    assert page.locator("html").get_attribute("lang") == ("en" if locale == "en-US" else "zh-Hans")
    empty = measured(page, "empty")
    assert_in_view(page, "header", "nav", "h1", "#composer", "button[type=submit]")
    visitor.say("order order order")
    expect(page.locator(".assistant .text")).to_have_text("Your order ")
    model.go_on()
    expect(page.locator(".markdown table")).to_be_visible()
    full = measured(page, "conversation")
    assert_in_view(page, "header", "#composer", "button[type=submit]", ".user .bubble")
    for shot in (empty, full):
        assert (shot["width"], shot["height"]) == (size["width"], size["height"])
        assert shot["mean"] > 200 if scheme == "light" else shot["mean"] < 60
        assert shot["variance"] > 100
    assert full["variance"] != empty["variance"]
    assert full["colours"] > 100
    for selector in (
        "h1",
        ".who",
        ".user .text",
        ".markdown",
        ".tool .state",
        ".meta a",
        "button",
        "nav a",
        "#hint",
    ):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector
    for address in ("sessions", "runs"):
        page.goto(f"{visitor.url}/{address}")
        assert_in_view(page, "header", "h1", ".cards li:first-child")
        assert measured(page, address)["variance"] > 100
    page.click(".cards .title")
    expect(page.locator(".steps")).to_be_visible()
    assert_in_view(page, "header", "h1")
    assert page.evaluate(CONTRAST, ".status") >= 4.5


def test_the_chat_is_usable_by_keyboard_and_named_for_screen_readers(visit: Any) -> None:
    visitor = visit()
    page = visitor.page
    expect(page.locator("#text")).to_be_focused()
    seen = set()
    for _ in range(12):  # round the whole page, wherever it begins
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.innerText || document.activeElement.id"))
    assert {"Sampan", "New chat", "Conversations", "Runs", "中文", "text", "Send"} <= seen
    expect(page.get_by_role("textbox", name="Your message")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_role("log", name="Conversation")).to_be_attached()
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
    assert page.locator("h1").count() == 1
