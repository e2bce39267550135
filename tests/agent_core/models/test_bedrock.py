"""Bedrock beside AWS's own client library: requests, answers and frames as it has them; signing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from botocore.eventstream import EventStreamBuffer
from botocore.parsers import create_parser
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core.aws.eventstream import Frame, FrameError, FrameParser
from agent_core.errors import ConfigError, ModelBusyError, ModelRefusedError
from agent_core.messages import Audio, File, Message, Prompt, ToolSpec
from agent_core.models.catalog import make_model, parse
from agent_core.models.converse import from_wire, to_wire
from agent_core.settings import Settings
from agent_core.testing import ManualClock, ScriptedWire
from agent_core.wire.scripted import Answer
from tests.wire.cases import Case, cases
from tests.wire.frames import frame

SERVICE = botocore.session.get_session().get_service_model("bedrock-runtime")
ALL = cases("request.json", provider="bedrock")
KEYS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "wJalrXUtnFEMI"}
TEXT = Case("bedrock", "text")


@pytest.mark.parametrize("case", ALL, ids=repr)
def test_a_request_is_one_that_aws_takes(case: Case) -> None:
    body = case.request()["body"]
    with_bytes = json.loads(json.dumps(body), object_hook=_decoded)
    shape = SERVICE.operation_model("Converse").input_shape
    report = ParamValidator().validate({"modelId": case.bedrock_model, **with_bytes}, shape)
    assert not report.has_errors(), report.generate_report()


def _decoded(value: dict[str, Any]) -> dict[str, Any]:
    return {"bytes": value["bytes"].encode()} if "bytes" in value else value


@pytest.mark.parametrize("case", cases("response.json", provider="bedrock"), ids=repr)
def test_an_answer_is_read_as_aws_s_own_client_reads_it(case: Case) -> None:
    operation = SERVICE.operation_model("Converse")
    status = case.error.status if case.has("error.json") else 200
    answer = {"status_code": status, "headers": {}, "body": case.bytes("response.json")}
    if case.has("error.json"):
        answer["headers"] = case.error.headers
    parsed = create_parser("rest-json").parse(answer, operation.output_shape)
    if case.has("error.json"):
        assert parsed["Error"]["Message"] == json.loads(case.bytes("response.json"))["message"]
        return
    assert parsed["usage"]["outputTokens"] == case.reply.usage.output
    text = "".join(block.get("text", "") for block in parsed["output"]["message"]["content"])
    assert text in case.reply.message.text
    assert from_wire(case.bytes("response.json"), case.bedrock_model) == case.reply


@pytest.mark.parametrize("case", [case for case in ALL if case.has("stream.jsonl")], ids=repr)
def test_our_frames_are_aws_s(case: Case) -> None:
    """The tests' frames are read by AWS's own client, and by ours to the same."""
    theirs = EventStreamBuffer()
    theirs.add_data(case.stream)
    read = [Frame(dict(one.headers), one.payload) for one in theirs]
    assert FrameParser().feed(case.stream) == read
    assert len(read) == len(case.events)


HEADERS = st.dictionaries(
    st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=20),
    st.text(max_size=50),
    max_size=4,
)


@given(frames=st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=4), data=st.data())
@settings(deadline=None)
def test_frames_in_any_pieces(frames: list[tuple[dict[str, str], bytes]], data: st.DataObject) -> None:
    body = b"".join(frame(*one) for one in frames)
    parser, found = FrameParser(), []
    while body:
        cut = data.draw(st.integers(1, len(body)))
        found += parser.feed(body[:cut])
        body = body[cut:]
    assert found == [Frame(*one) for one in frames]


@given(headers=HEADERS, payload=st.binary(max_size=100), data=st.data())
@settings(deadline=None)
def test_a_byte_that_was_changed_is_noticed(
    headers: dict[str, str], payload: bytes, data: st.DataObject
) -> None:
    """Never another frame: an error, or still not enough bytes for the length that it claims."""
    body = bytearray(frame(headers, payload))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        assert FrameParser().feed(bytes(body)) == []
    except FrameError:
        pass


def test_headers_of_every_type_are_passed_over() -> None:
    """Values of types 0 to 9 as AWS's own client writes them down in its tests; texts alone are of use here."""
    packed = b"".join(
        b"\x01%c%c%b" % (ord(name), kind, value)
        for name, kind, value in [
            ("a", 0, b""), ("b", 1, b""), ("c", 2, b"1"), ("d", 3, b"12"), ("e", 4, b"1234"), ("f", 5, b"12345678"),
            ("g", 6, b"\x00\x02xy"), ("h", 7, b"\x00\x02hi"), ("i", 8, b"12345678"), ("j", 9, b"1" * 16),
        ]
    )  # fmt: skip
    from zlib import crc32

    prelude = (16 + len(packed)).to_bytes(4) + len(packed).to_bytes(4)
    whole = prelude + crc32(prelude).to_bytes(4) + packed
    assert FrameParser().feed(whole + crc32(whole).to_bytes(4)) == [Frame({"h": "hi"}, b"")]


async def test_requests_are_signed_as_aws_s_own_client_signs_them() -> None:
    wire = ScriptedWire([Answer(body=TEXT.bytes("response.json"))])
    clock = ManualClock()
    model = make_model(
        parse(f"bedrock:{TEXT.bedrock_model}"), Settings(aws_region="eu-west-1", **KEYS), wire, clock
    )
    assert (await model.reply(TEXT.prompt)).message == TEXT.reply.message
    [sent] = wire.requests
    assert sent.url == TEXT.request()["url"]
    stamp = sent.headers["x-amz-date"]
    ours = sent.headers["authorization"]
    theirs = AWSRequest(
        "POST", sent.url, data=sent.body, headers={"content-type": sent.headers["content-type"]}
    )
    theirs.context["timestamp"] = stamp
    theirs.headers["X-Amz-Date"] = stamp
    auth = SigV4Auth(BotoCredentials(*KEYS.values()), "bedrock", "eu-west-1")
    auth_text = auth.signature(auth.string_to_sign(theirs, auth.canonical_request(theirs)), theirs)
    assert ours.rpartition("Signature=")[2] == auth_text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_credentials_that_went_stale_are_read_again(stream: bool) -> None:
    stale = Answer(
        status=403, headers={"x-amzn-errortype": "ExpiredTokenException"}, body=b'{"message": "old"}'
    )
    good = Answer(
        headers={"content-type": TEXT.content_type} if stream else {},
        body=TEXT.stream if stream else TEXT.bytes("response.json"),
    )
    wire = ScriptedWire([stale, good])
    model = make_model(parse("bedrock:m"), Settings(aws_region="eu-west-1", **KEYS), wire, ManualClock())
    if stream:
        [*_, last] = [chunk async for chunk in model.stream(TEXT.prompt)]
        assert last.reply.message == TEXT.reply.message
    else:
        assert (await model.reply(TEXT.prompt)).message == TEXT.reply.message
    assert len(wire.requests) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_is_not_allowed_is_told_and_not_tried_again(stream: bool) -> None:
    case = Case("bedrock", "error_401")
    answer = Answer(status=403, headers=case.error.headers, body=case.bytes("response.json"))
    wire = ScriptedWire([answer])
    model = make_model(parse("bedrock:m"), Settings(aws_region="eu-west-1", **KEYS), wire, ManualClock())
    with pytest.raises(ModelRefusedError, match="don't have access"):
        await (anext(model.stream(TEXT.prompt)) if stream else model.reply(TEXT.prompt))
    assert len(wire.requests) == 1


def test_a_region_is_needed() -> None:
    with pytest.raises(ConfigError, match="AWS_REGION"):
        make_model(parse("bedrock:m"), Settings(), ScriptedWire(), ManualClock())


async def test_an_arn_is_one_part_of_the_path_and_endpoints_are_settings() -> None:
    arn = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude"
    wire = ScriptedWire([Answer(body=TEXT.bytes("response.json"))])
    there = Settings(aws_region="eu-west-1", aws_endpoint_url_bedrock_runtime="http://127.0.0.1:9/x", **KEYS)
    await make_model(parse(f"bedrock:{arn}"), there, wire, ManualClock()).reply(TEXT.prompt)
    assert wire.requests[0].url == (
        "http://127.0.0.1:9/x/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012"
        "%3Ainference-profile%2Feu.anthropic.claude/converse"
    )


def test_tools_that_must_not_be_called_are_not_shown() -> None:
    tool = ToolSpec("look", "Look.", {"type": "object"})
    asked = Prompt(messages=(Message.of("user", "Hi"),), tools=(tool,), tool_choice="none")
    assert "toolConfig" not in to_wire(asked)


def test_what_one_side_says_in_pieces_is_one_message() -> None:
    said = to_wire(Prompt(messages=(Message.of("user", "Hi"), Message.of("user", "there"))))
    assert said["messages"] == [{"role": "user", "content": [{"text": "Hi"}, {"text": "there"}]}]


def test_a_document_has_a_name_that_the_api_takes_and_words_beside_it() -> None:
    part = File(media_type="application/pdf", data=b"%PDF", name="bill: (2026)  final_v2.pdf")
    [message] = to_wire(Prompt(messages=(Message(role="user", parts=(part,)),)))["messages"]
    assert message["content"][0]["document"]["name"] == "bill (2026) final v2 pdf"
    assert "text" in message["content"][1]


def test_what_the_api_has_no_form_for_is_refused() -> None:
    part = Audio(media_type="audio/wav", data=b"RIFF")
    with pytest.raises(ModelRefusedError, match="audio/wav"):
        to_wire(Prompt(messages=(Message(role="user", parts=(part,)),)))


def test_a_service_that_breaks_in_mid_stream_may_be_asked_again() -> None:
    async def broken() -> None:
        error = frame(
            {":message-type": "error", ":error-code": "InternalError", ":error-message": "it broke"}, b""
        )
        wire = ScriptedWire([Answer(headers={"content-type": TEXT.content_type}, body=error)])
        with pytest.raises(ModelBusyError, match="InternalError: it broke"):
            async for _ in TEXT.model(wire).stream(TEXT.prompt):
                pass

    asyncio.run(broken())
