"""Web pages as a model reads them: the words that a person would see, headings and links marked, nothing loaded."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin

_UNSEEN = frozenset(
    {"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "head", "canvas", "audio"}
    | {"video", "select", "textarea", "dialog"}
)
_BLOCKS = frozenset(
    {"p", "div", "section", "article", "header", "footer", "main", "aside", "nav", "ul", "ol", "table", "tr"}
    | {"blockquote", "pre", "figure", "figcaption", "form", "dl", "dt", "dd", "hr", "br", "li", "title"}
    | {f"h{level}" for level in range(1, 7)}
)
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0|opacity\s*:\s*0(\.0*)?\s*(;|$)"
)


def page_text(html: str, url: str) -> str:
    """The visible text of an HTML page. Links stand behind their words, pictures are only named.

    What styles within the page hide is left out: it is where text for models alone likes to be.
    """
    reader = _Reader(url)
    reader.feed(html)
    reader.close()
    lines = (re.sub(r"[ \t\f\v]+", " ", line).strip() for line in "".join(reader.out).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Reader(HTMLParser):
    """Follows the tags; `_hidden` is the stack of open elements within one that is not seen."""

    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self._url = url
        self._hidden: list[str] = []
        self._links: list[str] = []
        self._title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin an element."""
        self._title = tag == "title"
        given = dict(attrs)
        if self._hidden or tag in _UNSEEN or _hides(given):
            if tag not in _VOID:
                self._hidden.append(tag)
            return
        if tag in _BLOCKS:
            self.out.append("\n")
        if tag in ("li", "td", "th"):
            self.out.append("- " if tag == "li" else " | ")
        elif len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self.out.append("#" * int(tag[1]) + " ")
        elif tag == "img" and given.get("alt"):
            self.out.append(f"[image: {given['alt']}]")
        elif tag == "a":
            self._links.append(self._link(given.get("href") or ""))

    def handle_endtag(self, tag: str) -> None:
        """End an element, and those within that were never ended."""
        self._title = False
        if self._hidden:
            if tag in self._hidden:
                while self._hidden.pop() != tag:
                    pass
            return
        if tag == "a" and self._links:
            link = self._links.pop()
            self.out.append(f" ({link})" if link else "")
        elif tag in _BLOCKS:
            self.out.append("\n")

    def handle_data(self, data: str) -> None:
        """Words."""
        if self._title:
            self.out.append(f"# {' '.join(data.split())}\n")
        elif not self._hidden:
            self.out.append(data.replace("\r", " ").replace("\n", " "))

    def _link(self, href: str) -> str:
        try:
            target = urljoin(self._url, href.strip())
        except ValueError:
            return ""
        return target if target.startswith(("https://", "http://")) else ""


def _hides(given: dict[str, str | None]) -> bool:
    if "hidden" in given or (given.get("aria-hidden") or "").lower() == "true":
        return True
    return bool(_HIDING.search((given.get("style") or "").lower()))
