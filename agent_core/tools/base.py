"""The tool: a function that a model may call, with what the model is told of it and what the engine must know."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

from agent_core.errors import ConfigError
from agent_core.messages import Effects, ToolSpec
from agent_core.tools import plain, signature
from agent_core.tools.arguments import Arguments
from agent_core.tools.signature import Signature

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Tool:
    """A function that a model may call. Made by `@tool` or `Tool.from_schema`; callable like the function itself.

    `effects` says what calling twice does: "none" may be repeated and run beside others, "repeatable" may be
    repeated under the same `turn.idempotency_key`, "once" must never be. `approval` asks a person first, `stepup`
    (which includes it) wants a second factor of that person. `sensitive` marks what must not be logged and must not
    run on the word of untrusted text alone. `trusted` says that nobody but you writes what it gives back: else what it
    gives is untrusted text. `source` is who declares the tool, such as a server's address, where that is not you: the
    agent does without it until `sampan tools accept`, and again once what it declares has changed. `lookup` is a
    function of the idempotency key that tells what an earlier call gave, or None where there was none: asked after a
    crash that left open whether the tool ran. `timeout` in seconds; None takes the setting `tool_seconds`.

    The JSON schema is made when it is first needed, since making it loads pydantic.
    """

    function: Callable[..., Any]
    name: str
    description: str = ""
    effects: Effects = "none"
    approval: bool = False
    stepup: bool = False
    sensitive: bool = False
    trusted: bool = False
    lookup: Callable[[str], Any] | None = None
    timeout: float | None = None
    source: str = ""
    given_schema: dict[str, Any] | None = None
    namespace: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raise ConfigError where no tool can be made of this."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"tool name {self.name!r}: models take 1 to 64 letters, digits, _ and -; give another by name="
            )
        if self.effects not in ("none", "repeatable", "once"):
            raise ConfigError(
                f'tool {self.name}: effects={self.effects!r}; there are "none", "repeatable", "once"'
            )
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(f"tool {self.name}: timeout={self.timeout!r}; give seconds above 0")
        if self.given_schema is None:
            signature.check_shape(self.function, self.name)
        if self.stepup and not self.approval:
            object.__setattr__(self, "approval", True)  # the dataclass is frozen; this is still its making

    @classmethod
    def from_schema(
        cls, name: str, description: str, schema: dict[str, Any], function: Callable[..., Any], **options: Any
    ) -> Tool:
        """A tool whose JSON schema (2020-12, of an object) is given; `options` are those of `@tool`.

        The function gets the arguments by name, as they came, once they fit the schema; and the Turn, where it has
        a parameter `turn: Turn`. Where the schema and the words come from elsewhere, give that as `source`.
        """
        return cls(name=name, description=description, given_schema=schema, function=function, **options)

    @property
    def spec(self) -> ToolSpec:
        """What a model is told."""
        return ToolSpec(name=self.name, description=self.description, schema=self.schema)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema (2020-12) of the arguments, an object."""
        return self.arguments.schema

    @property
    def declared(self) -> dict[str, Any]:
        """What `source` says of it: all that a model reads and all that we go by."""
        return {
            "name": self.name,
            "description": self.description,
            "schema": self.schema,
            "effects": self.effects,
            "approval": self.approval,
            "stepup": self.stepup,
            "sensitive": self.sensitive,
            "trusted": self.trusted,
        }

    @property
    def guarded(self) -> bool:
        """Whether it must not run on the word of untrusted text alone."""
        return self.sensitive or self.stepup or self.effects == "once"

    @property
    def takes_turn(self) -> bool:
        """Whether the function wants the Turn."""
        return bool(self.turn_argument)

    @cached_property
    def arguments(self) -> Arguments:
        """The arguments' schema and check. Raises ConfigError where a type can't be told to a model."""
        # Both are imported when first needed, for cold start: pydantic costs more than all the rest together.
        if self.given_schema is not None:
            from agent_core.tools.given import GivenArguments

            return GivenArguments(self.name, self.given_schema)
        schema = plain.schema_of(self.signature)
        if schema is not None:
            return plain.PlainArguments(self.name, self.signature, schema)
        from agent_core.tools.schema import TypedArguments  # it loads pydantic

        return TypedArguments(self.name, self.signature)

    @cached_property
    def signature(self) -> Signature:
        """What the function takes, types resolved."""
        if signature.is_unbound(self.function):
            raise ConfigError(
                f"tool {self.name} is a method: give the agent the one of an object, `thing.{self.name}`"
            )
        try:
            return signature.read(self.function, self.name, self.namespace)
        except NameError as error:
            raise ConfigError(f"tool {self.name}: a type in its signature is not defined: {error}") from error
        except TypeError as error:
            raise ConfigError(f"tool {self.name}: its signature can't be read: {error}") from error

    @cached_property
    def turn_argument(self) -> str:
        """The name of the argument that takes the Turn, "" for none."""
        if self.given_schema is None:
            return self.signature.turn
        return signature.turn_of(self.function, self.namespace)

    def check(self) -> None:
        """Raise ConfigError where the tool can't work. Loads pydantic only for types that need it."""
        if self.given_schema is not None:
            self.arguments.schema  # noqa: B018 - reading it checks it
        elif not all(signature.is_plain(argument.annotation) for argument in self.signature.arguments):
            self.arguments.schema  # noqa: B018 - reading it builds it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself: for tests and for other code."""
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Tool:
        """The tool of an object, where `@tool` stands above a method."""
        if instance is None or not inspect.isfunction(self.function):
            return self
        return replace(self, function=self.function.__get__(instance, owner))


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    effects: Effects = "none",
    approval: bool = False,
    timeout: float | None = None,
    name: str | None = None,
    description: str | None = None,
    stepup: bool = False,
    sensitive: bool = False,
    trusted: bool = False,
    lookup: Callable[[str], Any] | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a tool of a function: its type hints give the schema, its docstring the words.

    `effects` is "none" unless told: a plain `@tool` must be safe to repeat and to run beside others. What `Tool`
    says of the other options holds here. Raises ConfigError where the function can't be a tool.
    """
    # Types defined inside the function that defines the tool are found in its local names, for annotations that
    # are strings (`from __future__ import annotations`).
    caller = sys._getframe(1)
    namespace = {} if caller.f_locals is caller.f_globals else dict(caller.f_locals)
    if function is not None:
        return _make(function, namespace, **options)
    return lambda wrapped: _make(wrapped, namespace, **options)


def _make(
    function: Callable[..., Any],
    namespace: dict[str, Any],
    *,
    name: str | None = None,
    description: str | None = None,
    **options: Any,
) -> Tool:
    if isinstance(function, Tool):
        raise ConfigError(f"tool {function.name} is a tool already: @tool stands above it twice")
    if name is None:
        name = getattr(function, "__name__", None) or _snake(type(function).__name__)
    signature.check_shape(function, name)
    if description is None:
        description = signature.docstring(function).summary
    uses_strings = any(isinstance(hint, str) for hint in signature.written_annotations(function).values())
    return Tool(
        function=function,
        name=name,
        description=description,
        namespace=namespace if uses_strings else {},
        **options,
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
