"""The OpenAPI document is up to date, true, and readable without any other host."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agent_core.api import openapi
from agent_core.api.docs_page import render

House = Callable[..., Any]


def test_the_stored_document_is_what_the_code_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert openapi.main(["--check"]) == 0, "run `make openapi`"
    stale = tmp_path / "openapi.json"
    assert openapi.main(["--check", str(stale)]) == 1
    assert openapi.main([str(stale)]) == 0
    assert openapi.main(["--check", str(stale)]) == 0
    stale.write_bytes(stale.read_bytes().replace(b"Sampan", b"Junk"))
    assert openapi.main(["--check", str(stale)]) == 1
    assert "make openapi" in capsys.readouterr().err


def test_its_schemas_are_json_schemas_and_its_references_lead_somewhere() -> None:
    document = openapi.document()
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    names = set(re.findall(r"#/components/schemas/(\w+)", openapi.text().decode()))
    assert names == set(schemas), "every schema is used, every reference has its schema"


def test_an_agent_request_has_one_kind_of_message() -> None:
    document = openapi.document()
    schema = {"$ref": "#/components/schemas/AgentRequest", "components": document["components"]}
    validator = Draft202012Validator(schema)
    message = {"parts": [{"type": "text", "text": "b"}]}
    assert validator.is_valid({"message": "a"})
    assert validator.is_valid({"messages": [message]})
    assert not validator.is_valid({})
    assert not validator.is_valid({"message": "a", "messages": [message]})


async def test_it_is_served(house: House) -> None:
    answer = await house().get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == openapi.document()


class Links(HTMLParser):
    """What a page would fetch, where it leads, and what it names."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.targets: list[str] = []
        self.names: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "action") or (tag == "link" and name == "href"):
                self.fetched.append(value or "")
            elif name == "href":
                self.targets.append(value or "")
            elif name == "id":
                self.names.append(value or "")


async def test_the_page_needs_no_script_and_no_other_host(house: House) -> None:
    answer = await house().get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none';")
    page = Links()
    page.feed(answer.text)
    assert page.fetched == []
    assert "script" not in page.tags
    assert len(page.names) == len(set(page.names))
    assert {target for target in page.targets if not target.startswith("#")} == {"/openapi.json"}
    assert {target[1:] for target in page.targets if target.startswith("#")} <= set(page.names)
    for operation in ("answer", "chatCompletions", "AgentRequest", "Problem"):
        assert operation in page.names


def test_what_a_description_says_is_shown_and_not_run() -> None:
    document = openapi.document()
    document["info"]["title"] = "<script>alert(1)</script>"
    document["components"]["schemas"]["Problem"]["description"] = "<img src=x>"
    page = render(document)
    assert "<script>" not in page
    assert "<img" not in page
