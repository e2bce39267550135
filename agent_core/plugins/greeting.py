"""Answers a bare greeting at once, so that no model call is paid for it. docs/plugins.md builds it from nothing."""

from __future__ import annotations

from collections.abc import Collection

from agent_core.messages import Message
from agent_core.plugins.base import Stop

WORDS = (
    *("hi", "hi there", "hello", "hello there", "hey", "hey there", "hiya", "howdy"),
    *("good morning", "good afternoon", "good evening"),
    *("你好", "您好", "嗨", "哈喽", "早上好", "下午好", "晚上好", "こんにちは", "안녕하세요"),
    *("hallo", "guten tag", "grüezi", "servus", "moin", "hola", "bonjour", "salut", "ciao", "olá", "привет"),
)


class Greeting:
    """`words` are what counts as a greeting, alone in a message; `reply` is the answer."""

    inline = True

    def __init__(self, reply: str = "Hello! How can I help you?", words: Collection[str] = WORDS) -> None:
        self._reply = reply
        self._words = {word.casefold() for word in words}

    def process(self, message: Message) -> None:
        """Stop the run where the message is a greeting and nothing else."""
        words = message.text.casefold().strip(" \t\r\n.,!?~。，！？～👋🙂😊")
        if len(message.parts) == 1 and words in self._words:
            raise Stop(self._reply)
