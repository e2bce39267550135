"""JSON schema from type hints, and the check of what a model gave. The one place here that loads pydantic.

Models send what fits almost. So a number may come as a string ("5" for int), a string as a number (7 for str), a list
or object as the JSON text of it, and null for an argument that has a default; anything else is a problem that is told.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind
from pydantic_core import ErrorDetails

from agent_core.errors import ConfigError
from agent_core.tools.arguments import ArgumentsError
from agent_core.tools.shape import simplify
from agent_core.tools.signature import MISSING, Argument, Signature, annotated_words

_CONFIG = ConfigDict(extra="forbid", coerce_numbers_to_str=True, arbitrary_types_allowed=False)
_JSON_IN_A_STRING = {
    "list_type", "tuple_type", "set_type", "frozen_set_type", "dict_type", "model_type", "model_attributes_type",
    "dataclass_type", "mapping_type", "iterable_type",
}  # fmt: skip
_SHOWN = 120


class TypedArguments:
    """The arguments of a function by its type hints."""

    def __init__(self, name: str, signature: Signature) -> None:
        self._arguments = signature.arguments
        # The fields are called a0, a1, ...: an argument may have a name that pydantic keeps for itself.
        self._fields = {f"a{index}": argument for index, argument in enumerate(signature.arguments)}
        self._model = _model(name, self._fields)
        self.schema = _schema(name, self._model)

    def read(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as the function's types; those left out are left to the function's own defaults."""
        try:
            model = self._model.model_validate(given)
        except ValidationError as error:
            model = self._second_try(given, error)
        return {
            argument.name: getattr(model, field)
            for field, argument in self._fields.items()
            if field in model.model_fields_set or not _has_own_default(argument)
        }

    def _second_try(self, given: dict[str, Any], error: ValidationError) -> BaseModel:
        """Once more with JSON text read and needless nulls removed; raises ArgumentsError of the first error."""
        details = error.errors(include_url=False, include_context=False)
        mended = _mended(given, details, {argument.name: argument for argument in self._arguments})
        if mended is not None:
            try:
                return self._model.model_validate(mended)
            except ValidationError:
                pass  # the first error tells of what the model sent itself
        raise ArgumentsError(self._problems(details)) from None

    def _problems(self, details: list[ErrorDetails]) -> list[str]:
        """One line for each argument at fault, with what would be right."""
        names = [argument.name for argument in self._arguments]
        problems = []
        for detail in details:
            path = ".".join(str(step) for step in detail["loc"]) or "arguments"
            top = str(detail["loc"][0]) if detail["loc"] else ""
            wanted = json.dumps(self.schema["properties"].get(top, {}), ensure_ascii=False)
            if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
                problems.append(f"{path}: there is no such argument; there are: {', '.join(names) or 'none'}")
            elif detail["type"] == "missing":
                problems.append(f"{path}: is missing; it takes {wanted}")
            else:
                shown = _shown(detail["input"])
                problems.append(f"{path}: {detail['msg']}, but got {shown}; it takes {wanted}")
        return problems


def json_schema(kind: Any) -> dict[str, Any]:
    """JSON schema of any type, simplified for models to read. Raises ConfigError where there is none."""
    from pydantic import TypeAdapter  # here, since only structured output needs it

    try:
        return simplify(TypeAdapter(kind).json_schema(schema_generator=_Generator))
    except PydanticUserError as error:
        raise ConfigError(f"{kind!r} has no JSON schema: {_first_line(error)}") from error


class _Generator(GenerateJsonSchema):
    """No titles, which repeat the names, and no warnings: what can't be shown is left out."""

    ignored_warning_kinds = {"non-serializable-default", "skipped-choice"}  # noqa: RUF012 - as pydantic has it

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """Nothing."""


def _model(name: str, fields: dict[str, Argument]) -> type[BaseModel]:
    definitions: dict[str, Any] = {field: _field(argument) for field, argument in fields.items()}
    try:
        return create_model(name, __config__=_CONFIG, **definitions)
    except PydanticUserError as error:
        raise ConfigError(
            f"tool {name}: a model can't be told of a type in its signature: {_first_line(error)}"
        ) from error


def _field(argument: Argument) -> tuple[Any, FieldInfo]:
    """The annotation and the field: description from Annotated[..., "words"], else Field, else the docstring."""
    annotation = argument.annotation
    words = annotated_words(annotation)
    if isinstance(argument.default, FieldInfo):
        given = argument.default
        annotation = Annotated[annotation, given]
        default = (
            given.get_default(call_default_factory=True, validated_data={})
            if not given.is_required()
            else ...
        )
    else:
        default = ... if argument.default is MISSING else argument.default
    described = words or _field_words(annotation) or argument.description or None
    options: dict[str, Any] = {"alias": argument.name, "description": described}
    if default is not ...:
        options["default"] = default
    return annotation, Field(**options)


def _field_words(annotation: Any) -> str:
    if get_origin(annotation) is not Annotated:
        return ""
    fields = (extra for extra in get_args(annotation)[1:] if isinstance(extra, FieldInfo))
    return next((extra.description for extra in fields if extra.description), "")


def _has_own_default(argument: Argument) -> bool:
    return argument.default is not MISSING and not isinstance(argument.default, FieldInfo)


def _schema(name: str, model: type[BaseModel]) -> dict[str, Any]:
    try:
        made = model.model_json_schema(schema_generator=_Generator)
    except PydanticUserError as error:
        raise ConfigError(
            f"tool {name}: a model can't be told of a type in its signature: {_first_line(error)}"
        ) from error
    schema = simplify(made)
    schema.setdefault("properties", {})
    return schema


def _mended(
    given: dict[str, Any], details: list[ErrorDetails], arguments: dict[str, Argument]
) -> dict[str, Any] | None:
    """A copy where JSON text is read and nulls for arguments with defaults are gone; None where nothing changed."""
    mended = json.loads(json.dumps(given))
    changed = False
    for detail in details:
        path = detail["loc"]
        if len(path) == 1 and detail["input"] is None and arguments[str(path[0])].default is not MISSING:
            changed = mended.pop(path[0], MISSING) is not MISSING or changed
        elif detail["type"] in _JSON_IN_A_STRING and isinstance(detail["input"], str):
            changed = _read_in_place(mended, path) or changed
    return mended if changed else None


def _read_in_place(value: Any, path: tuple[int | str, ...]) -> bool:
    """Replace the string at the path by what its JSON says; False where there is none or it is no list or object."""
    try:
        for step in path[:-1]:
            value = value[step]
        read = json.loads(value[path[-1]])
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return False  # pydantic's path may name a union's branch, which the data does not have
    if not isinstance(read, list | dict):
        return False
    value[path[-1]] = read
    return True


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
