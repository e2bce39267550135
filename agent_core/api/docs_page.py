"""The OpenAPI document as one page of HTML: no script, no other host, readable on a phone and in the dark."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: light-dark(#0a5cc2, #7db4ff); }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem; }
body { overflow-wrap: break-word; }
a { color: var(--accent); }
code, pre { font: 0.875em/1.5 ui-monospace, monospace; }
pre { background: var(--soft); border-radius: 6px; overflow-x: auto; overflow-wrap: normal; padding: 0.75rem; }
nav ul { columns: 20rem; list-style: none; margin: 0; padding: 0; }
h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem; padding-bottom: 0.25rem; }
section section { border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0; padding: 0 1rem; }
h3 { display: flex; flex-wrap: wrap; gap: 0.5rem; margin: 0.75rem 0; }
.method { background: var(--accent); border-radius: 4px; color: light-dark(#fff, #000); padding: 0 0.5rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5rem 0 1rem; width: 100%; }
th, td { border-top: 1px solid var(--line); padding: 0.35rem 0.75rem 0.35rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; }
td:last-child { min-width: 14rem; }
summary { cursor: pointer; font-weight: 600; margin: 0.5rem 0; }
"""


def content_security_policy() -> str:
    """A policy under which the page may show itself and nothing else."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    nothing = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    return f"{nothing}; style-src 'sha256-{digest}'"


def render(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    title = escape(document["info"]["title"])
    body = "".join(
        [
            f"<h1>{title} <small>API {escape(document['info']['version'])}</small></h1>",
            "".join(f"<p>{_inline(text)}</p>" for text in document["info"]["description"].split("\n\n")),
            '<p>For machines: <a href="/openapi.json">openapi.json</a> (OpenAPI 3.1).</p>',
            _contents(document),
            *(_tag(document, tag) for tag in document["tags"]),
            "<section id='schemas'><h2>Schemas</h2>",
            *(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())),
            "</section>",
        ]
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title} API</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _inline(text: str) -> str:
    """Text with **strong** and `code`."""
    text = escape(text, quote=False)
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _contents(document: Mapping[str, Any]) -> str:
    items = "".join(
        f"<li><a href='#{escape(operation['operationId'])}'><code>{method} {escape(path)}</code></a></li>"
        for method, path, operation in _operations(document)
    )
    return f"<nav aria-label='Operations'><ul>{items}<li><a href='#schemas'>Schemas</a></li></ul></nav>"


def _tag(document: Mapping[str, Any], tag: Mapping[str, str]) -> str:
    sections = "".join(
        _operation(method, path, operation)
        for method, path, operation in _operations(document)
        if tag["name"] in operation["tags"]
    )
    return f"<section><h2>{escape(tag['name'])}</h2><p>{_inline(tag['description'])}</p>{sections}</section>"


def _body(content: Mapping[str, Any]) -> str:
    """What a request may bring; its media type is said where it is not JSON."""
    kinds = (
        _type(body["schema"]) + ("" if kind == "application/json" else f" ({escape(kind)})")
        for kind, body in content.items()
    )
    return " or ".join(kinds)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [
        f"<section id='{escape(operation['operationId'])}'>",
        f"<h3><code class='method'>{method}</code> <code>{escape(path)}</code></h3>",
        f"<p>{_inline(operation['summary'])}</p>",
    ]
    if operation["parameters"]:
        rows = [
            (
                f"<code>{escape(parameter['name'])}</code>",
                escape(parameter["in"]),
                _type(parameter["schema"]),
                _inline(parameter.get("description") or parameter["schema"].get("description", "")),
            )
            for parameter in operation["parameters"]
        ]
        parts.append(_table(("Parameter", "In", "Type", "What for"), rows))
    if "requestBody" in operation:
        parts.append(f"<p>Body: {_body(operation['requestBody']['content'])}</p>")
    parts.append(f"<pre>{escape(_curl(method, path, operation))}</pre>")
    answers = [
        (f"<code>{status}</code>", _inline(answer["description"]), _contents_of(answer))
        for status, answer in operation["responses"].items()
    ]
    table = _table(("Status", "Meaning", "Body"), answers)
    parts.append(f"<details><summary>Answers</summary>{table}</details>")
    return "".join([*parts, "</section>"])


def _contents_of(answer: Mapping[str, Any]) -> str:
    content = answer.get("content", {})
    return "<br>".join(
        f"{_type(entry['schema'])} <code>{escape(kind)}</code>" for kind, entry in content.items()
    )


def _curl(method: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [f"curl {'' if method == 'GET' else f'-X {method} '}http://127.0.0.1:8000{path}"]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    if body is not None:
        lines += ["  -H 'Content-Type: application/json'", f"  -d {shlex.quote(json.dumps(body))}"]
    return " \\\n".join(lines)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>{'' if field in required else ' <small>optional</small>'}",
            _type(kind),
            _inline(_description(kind)),
        )
        for field, kind in schema.get("properties", {}).items()
    ]
    table = _table(("Field", "Type", "What for"), rows) if rows else ""
    text = _inline(schema.get("description", ""))
    return f"<section id='{escape(name)}'><h3><code>{escape(name)}</code></h3><p>{text}</p>{table}</section>"


def _description(schema: Mapping[str, Any]) -> str:
    found = (_description(option) for option in schema.get("anyOf", ()))
    return str(schema.get("description") or next((text for text in found if text), ""))


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with links to those that have a name."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[1])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = str(schema.get("format") or schema.get("type", "any JSON"))
    limits = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "from"),
            ("maximum", "to"),
            ("minLength", "at least"),
            ("maxLength", "at most"),
        )
        if key in schema
    ]
    return escape(" ".join([kind, *limits]))


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
