"""Words come back from JSON as they went in, now and after years."""

from __future__ import annotations

import json
import types
import typing
from typing import Any, Literal, Union

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_core import messages
from agent_core.engine import runs
from agent_core.errors import StoreError
from agent_core.messages import (
    VERSION,
    Image,
    Message,
    Text,
    ToolCall,
    ToolResult,
    Upgrades,
    Usage,
    from_json,
    from_record,
    to_json,
    to_record,
)

WORDS = [
    word
    for module in (messages, runs)
    for name, word in vars(module).items()
    if isinstance(word, type) and issubclass(word, msgspec.Struct) and word.__module__ == module.__name__
    if not name.startswith("_") and name != "RunEvent"  # an event is streamed, never read back
]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
INTS = st.integers(-(2**63), 2**64 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INTS | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: INTS,
    float: NUMBERS,
    bool: st.booleans(),
    bytes: st.binary(max_size=20),
    type(None): st.none(),
    Any: JSON,
}


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that words are made of."""
    if hint in PLAIN:
        return PLAIN[hint]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return st.sampled_from(parts)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(of_type, parts))
    if origin is tuple:
        return st.lists(of_type(parts[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(of_type(parts[0]), of_type(parts[1]), max_size=2)
    hints = typing.get_type_hints(hint)
    return st.builds(
        hint, **{field: st.deferred(lambda t=hints[field]: of_type(t)) for field in hint.__struct_fields__}
    )


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.__name__)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_word_comes_back_from_json_as_it_went_in(
    word: type[msgspec.Struct], data: st.DataObject
) -> None:
    value = data.draw(of_type(word))
    text, record = to_json(value), to_record(value)
    assert from_json(word, text) == from_json(word, text.decode()) == value
    assert from_record(word, record) == value
    assert from_record(word, {**record, "from_a_later_release": {"a": [1]}}) == value
    assert json.loads(text)["v"] == VERSION


def test_unknown_fields_are_passed_over_inside_as_well() -> None:
    record = to_record(Message.of("user", "hi"))
    record["parts"][0]["tone"] = "friendly"
    assert from_record(Message, record) == Message.of("user", "hi")


def test_what_is_at_its_default_takes_no_room() -> None:
    message = Message.of("user", "hi")
    assert json.loads(to_json(message)) == {
        "role": "user",
        "parts": [{"type": "text", "text": "hi"}],
        "v": VERSION,
    }


def test_a_record_of_a_newer_version_is_refused() -> None:
    with pytest.raises(StoreError, match="update"):
        from_record(Message, {**to_record(Message.of("user", "hi")), "v": VERSION + 1})


def test_a_record_without_a_version_is_of_the_first() -> None:
    assert from_record(Message, {"role": "user"}) == Message(role="user")


def test_an_old_record_is_brought_up_version_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def content_to_text(fields: dict[str, Any]) -> dict[str, Any]:
        return {"role": fields["role"], "text": fields["content"]}

    def text_to_parts(fields: dict[str, Any]) -> dict[str, Any]:
        return {"role": fields["role"], "parts": [{"type": "text", "text": fields["text"]}]}

    monkeypatch.setitem(Upgrades.table, (Message, VERSION - 2), content_to_text)
    monkeypatch.setitem(Upgrades.table, (Message, VERSION - 1), text_to_parts)
    hello = Message.of("user", "hello")
    assert from_record(Message, {"role": "user", "content": "hello", "v": VERSION - 2}) == hello
    assert from_record(Message, {"role": "user", "text": "hello", "v": VERSION - 1}) == hello
    assert from_record(Message, to_record(hello)) == hello


def test_an_upgrade_of_one_word_leaves_others_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Upgrades.table, (Message, VERSION - 1), lambda _: {"role": "system"})
    assert from_record(ToolCall, {"id": "1", "name": "t", "v": VERSION - 1}) == ToolCall("1", "t")


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[]", b"null", b"\xff", b'{"parts":[]}', b'{"role":"nobody"}'),
        *(b'{"role":"user","v":"x"}', b'{"role":"user","v":null}', b'{"role":"user","v":[1]}'),
        b'{"role":"user","parts":[{"type":"smell"}]}',
    ],
)
def test_what_is_no_such_word_is_a_declared_error(text: bytes) -> None:
    with pytest.raises(StoreError):
        from_json(Message, text)


def test_bytes_stand_in_json_as_base64() -> None:
    image = Image(media_type="image/png", data=b"\x89PNG", name="a.png")
    assert to_record(image) == {
        "type": "image",
        "media_type": "image/png",
        "data": "iVBORw==",
        "name": "a.png",
        "v": 1,
    }
    assert image.data_url() == "data:image/png;base64,iVBORw=="


def test_the_text_of_a_message_is_that_of_its_text_parts() -> None:
    message = Message(
        role="user", parts=(Text("Hello, "), Image(media_type="image/png", ref="s/1"), Text("world"))
    )
    assert message.text == "Hello, world"
    assert Message.of("user", "").parts == ()


def test_usages_add_up() -> None:
    usage = Usage(input=10, cached_input=4, output=5, reasoning=2, cache_write=3)
    assert usage + usage == Usage(input=20, cached_input=8, output=10, reasoning=4, cache_write=6)
    assert usage.total == 15
    assert Usage() + usage == usage


def test_words_can_not_be_changed() -> None:
    for word in WORDS:
        assert word.__struct_config__.frozen, word
    with pytest.raises(AttributeError):
        ToolResult(call_id="1", name="t", content="").content = "other"  # type: ignore[misc]
