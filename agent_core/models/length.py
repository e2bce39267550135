"""How providers say that a prompt is longer than their model's window: each in words of its own."""

from __future__ import annotations

import re

_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "request_too_large"})

# OpenAI and all that copy it, vLLM, Anthropic, Gemini, Bedrock, Mistral, Groq, xAI, llama.cpp.
_WORDS = re.compile(
    r"context[ _]length[ _]exceeded"
    r"|(maximum|max\.?|model'?s?) (context|prompt|input|sequence)[ _]?(length|size|window)"
    r"|maximum context"
    r"|exceeds? (the )?(model'?s? )?(available |maximum |max )?(context|input|prompt) ?(length|limit|size|window)"
    r"|(exceeds?|larger than|longer than|over) (the )?(model'?s? )?context"
    r"|context (window|length|size|limit) (is |was )?(exceeded|too (small|long))"
    r"|(prompt|input|inputs|messages|conversation|request) (is|are|was|were) too (long|large)\b(?!.*per min)"
    r"|too many (input |prompt )?tokens(?! per)"
    r"|input token count.{0,40}exceeds"
    r"|prompt contains \d+ tokens"
    r"|reduce the length of (the messages|your prompt|the input)"
    r"|must have less than \d+ tokens",
    re.IGNORECASE,
)
_LIMITS = (
    re.compile(r"(?:maximum|max|available|limit|window|length)[^\d]{0,60}?(\d[\d,_]{2,})", re.IGNORECASE),
    re.compile(r">\s*(\d[\d,_]{2,})"),
    re.compile(r"less than (\d[\d,_]{2,})", re.IGNORECASE),
)


def overlong(words: str, code: str = "") -> bool:
    """Whether a refusal says that the prompt is too long."""
    return code in _CODES or _WORDS.search(words) is not None


def stated(words: str) -> int:
    """How many tokens the model takes, as its refusal says; 0 where it says nothing of it."""
    found = (match for pattern in _LIMITS for match in pattern.finditer(words))
    numbers = [int(re.sub(r"[,_]", "", match[1])) for match in found]
    return min(numbers, default=0)
