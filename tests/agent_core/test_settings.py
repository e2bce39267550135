"""Settings come from the environment, and what can't be used is named."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import pytest

from agent_core import settings
from agent_core.errors import ConfigError
from agent_core.settings import PLAIN, SECRET, Settings, variable

FIELDS = Settings.__struct_fields__
DEFAULTS = Settings()


def other(field: str) -> Any:
    """A value that the field may have and has not by default."""
    default = getattr(DEFAULTS, field)
    special = {
        "wire": "aiohttp",
        "data_class": "restricted",
        "log_level": "debug",
        "store": "memory",
        "queue": "memory",
        "auth": "on",
        "openid_algorithms": ("ES256", "EdDSA"),
        "openid_scopes": ("agents:run", "admin"),
        "openid_acr": ("mfa", "phr"),
        "plugins": ("audit", "redact"),
        "origins": ("https://a.example", "https://b.example"),
        "channels": {"slack": {"kind": "slack"}, "telegram": {"kind": "telegram"}},
    }
    if field in special:
        return special[field]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1
    return default + "x"


def text(value: Any) -> str:
    return (
        ",".join(value)
        if isinstance(value, tuple | dict)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def test_no_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == DEFAULTS
    assert Settings.from_env({"PATH": "/bin", "SAMPAN_NO_SUCH": "1"}) == DEFAULTS


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_set_by_its_variable(field: str) -> None:
    value = other(field)
    changed = Settings.from_env({variable(field): text(value)})
    assert getattr(changed, field) == value
    assert [name for name in FIELDS if getattr(changed, name) != getattr(DEFAULTS, name)] == [field]


@pytest.mark.parametrize("field", FIELDS)
def test_an_empty_variable_is_no_setting(field: str) -> None:
    assert Settings.from_env({variable(field): ""}) == DEFAULTS


@pytest.mark.parametrize("field", FIELDS)
def test_what_the_caller_says_wins(field: str) -> None:
    value = other(field)
    environ = {variable(field): text(getattr(DEFAULTS, field)) or "y"}
    assert getattr(Settings.from_env(environ, **{field: value}), field) == value
    assert Settings.from_env({}, **{field: None}) == DEFAULTS


def test_names_of_variables() -> None:
    assert variable("max_body_bytes") == "SAMPAN_MAX_BODY_BYTES"
    assert variable("model_name") == "MODEL_NAME"
    assert len({variable(field) for field in FIELDS}) == len(FIELDS)
    assert set(PLAIN) <= set(FIELDS)
    assert set(SECRET) <= set(FIELDS)


WRONG = [
    ("port", "eighty"),
    ("port", "65536"),
    ("port", "-1"),
    ("tool_seconds", "0"),
    ("tool_seconds", "soon"),
    ("local_threads", "0"),
    ("local_threads", "1.5"),
    ("model_retries", "11"),
    ("wire", "curl"),
    ("data_class", "secret"),
    ("log_level", "verbose"),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_value_that_can_not_be_used_names_its_variable(field: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({variable(field): value, "MODEL_API_KEY": "sk-1"})
    assert f"{variable(field)}={value}" in caught.value.detail


def test_what_is_no_setting_is_refused() -> None:
    with pytest.raises(ConfigError):
        Settings.from_env({}, no_such_setting=1)


@pytest.mark.parametrize("field", SECRET)
def test_a_secret_is_never_shown(field: str) -> None:
    known = Settings.from_env({variable(field): "sk-123"})
    assert known.public()[field] == "***"
    assert "sk-123" not in str(known.public())
    assert DEFAULTS.public()[field] == "", "whether one is set may be seen"
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({}, **{field: ["sk-123"]})
    assert "sk-123" not in caught.value.detail


def test_public_shows_all_the_rest() -> None:
    shown = DEFAULTS.public()
    assert set(shown) == set(FIELDS)
    assert shown["port"] == DEFAULTS.port


def test_the_process_environment_is_read_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_PORT", "9000")
    assert Settings.from_env().port == 9000


def test_settings_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        DEFAULTS.port = 1  # type: ignore[misc]


def test_every_field_says_what_it_is() -> None:
    [settings_class] = [
        node
        for node in ast.parse(inspect.getsource(settings)).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    ]
    lines = settings_class.body
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign):
            said = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            assert said, f"{ast.unparse(line.target)} has no docstring below it"


def test_options_of_channels_come_by_name() -> None:
    environ = {
        "SAMPAN_CHANNELS": "slack, my-shop=stripe",
        "SAMPAN_SLACK_SECRET": "one two",
        "SAMPAN_MY_SHOP_SECRET": "three",
        "SAMPAN_MY_SHOP_ALLOW": "",
        "SAMPAN_TELEGRAM_SECRET": "not on",
    }
    assert Settings.from_env(environ).channels == {
        "slack": {"kind": "slack", "secret": "one two"},
        "my-shop": {"kind": "stripe", "secret": "three"},
    }


def test_a_setting_is_no_option_of_a_channel() -> None:
    """A channel named as a setting begins does not take that setting for its own."""
    environ = {"SAMPAN_CHANNELS": "data=generic", "SAMPAN_DATA_CLASS": "public", "SAMPAN_DATA_SECRET": "x"}
    assert Settings.from_env(environ).channels == {"data": {"kind": "generic", "secret": "x"}}
