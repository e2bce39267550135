"""The rules of the tree that no linter knows: floors, lean imports, public names, words in the docs, sizes."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("agent_core", "handlers")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

FUNCTION_LINES = 60
INIT_PARAMETERS = 7
REASON_LINES_ABOVE = 5
Function = ast.FunctionDef | ast.AsyncFunctionDef

# What `import agent_core` may not load, and what an application with an OpenAI-compatible model and SQLite may not.
HEAVY = (
    "boto3",
    "botocore",
    "redis",
    "flask",
    "rich",
    "typer",
    "httpx",
    "aiohttp",
    "xllamacpp",
    "numpy",
    "openai",
)
HEAVY_ON_LAMBDA = (
    "a2wsgi",
    "aws_lambda_powertools",
    "cryptography",
    "gunicorn",
    "joserfc",
    "serverless_wsgi",
    "sqlite3",
    "uvicorn",
    "websockets",
    "werkzeug",
)
HEAVY_AT_IMPORT = (*HEAVY, "pydantic", "starlette", "httpcore", "uvicorn", "sqlite3")


# -- what is looked at


@cache
def repository_files() -> tuple[Path, ...]:
    """All files git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def source_files() -> list[Path]:
    found = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    assert len(found) > 20, "the sources are not where this test looks"
    return found


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def functions(path: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(parsed(path)) if isinstance(node, Function))


def complain(problems: list[str], rule: str) -> None:
    assert not problems, rule + ":\n  " + "\n  ".join(problems)


# -- floors


def test_the_floors_hold() -> None:
    """import-linter finds no import that goes up, sideways, in a circle or past an adapter."""
    result = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_has_a_floor() -> None:
    """A module that no floor names would be free of all rules."""
    floors = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "floors")
    named = set(re.findall(r"agent_core\.(\w+)", " ".join(floors["layers"])))
    entries = [
        path for path in (ROOT / "agent_core").iterdir() if path.name not in ("__init__.py", "template")
    ]
    there = {path.stem for path in entries if path.suffix == ".py"}
    there |= {path.name for path in entries if path.is_dir() and any(path.glob("*.py"))}
    assert not there - named, f"name these in the floors of pyproject.toml: {sorted(there - named)}"


def test_nothing_inside_imports_the_public_namespace() -> None:
    """`from agent_core import Agent` is for users; inside, it would reach every floor from every other."""
    problems = []
    for path in (ROOT / "agent_core").rglob("*.py"):
        if path.is_relative_to(ROOT / "agent_core" / "template"):
            continue
        for node in ast.walk(parsed(path)):
            names = node.names if isinstance(node, ast.ImportFrom) and node.module == "agent_core" else []
            for name in names:
                if not any(
                    (ROOT / "agent_core" / f"{name.name}{end}").exists() for end in (".py", "/__init__.py")
                ):
                    problems.append(f"{place(path, node)} imports {name.name}")
    complain(problems, "import from the module that defines it")


def test_no_type_checking_imports() -> None:
    """An import for the type checker alone is an import: it hides a circle instead of cutting it."""
    word = "TYPE_" + "CHECKING"
    problems = [
        place(path, node)
        for path in source_files()
        for node in ast.walk(parsed(path))
        if (isinstance(node, ast.Name) and node.id == word)
        or (isinstance(node, ast.Attribute) and node.attr == word)
        or (isinstance(node, ast.alias) and node.name == word)
    ]
    complain(problems, f"no {word}")


def test_imports_inside_functions_say_why() -> None:
    """A comment on the import or shortly above it, or the function's docstring, says why it is not at the top."""
    problems = []
    for path in source_files():
        lines = path.read_text(encoding="utf-8").splitlines()
        for function in functions(path):
            if "import" in (ast.get_docstring(function) or "").lower():
                continue
            for node in _own_imports(function):
                first = max(function.lineno, node.lineno - 1 - REASON_LINES_ABOVE)
                if not any(_has_comment(line) for line in lines[first : node.end_lineno]):
                    problems.append(place(path, node))
    complain(problems, "say in a comment why this import stands in a function")


def _has_comment(line: str) -> bool:
    before, sign, words = line.partition("#")
    return bool(sign) and before.count('"') % 2 == 0 and not words.lstrip().startswith(("noqa", "type:"))


def _own_imports(function: Function) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports of a function without those of the functions in it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, Function):
            waiting.extend(ast.iter_child_nodes(node))


# -- lean imports


def modules_loaded_by(code: str, folder: Path) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running the code."""
    program = (
        f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr
    loaded: list[str] = json.loads(result.stdout.splitlines()[-1])
    return set(loaded)


def test_importing_the_package_is_lean(tmp_path: Path) -> None:
    """`import agent_core` and defining an agent loads no vendor's library, and no pydantic without tools."""
    code = 'from agent_core import Agent\nAgent(name="a", instructions="b", model="openai:c")'
    loaded = modules_loaded_by(code, tmp_path)
    assert not loaded.intersection(HEAVY_AT_IMPORT)
    assert "agent_core" in loaded


def test_building_the_app_is_lean(tmp_path: Path) -> None:
    """The path of POST /api/v1/agent loads none of the libraries that other paths need."""
    code = f"""
from agent_core import Agent
from agent_core.api.asgi import build
from agent_core.app import build_app
from agent_core.settings import Settings
agent = Agent(name="a", instructions="b", model="openai:c")
app = build_app(Settings(data={str(tmp_path)!r}, model_api_key="k"), agents=[agent])
build(app.engine, app.settings, clock=app.clock)
"""
    loaded = modules_loaded_by(code, tmp_path)
    assert not loaded.intersection(HEAVY)
    assert "starlette" in loaded


def test_the_functions_are_lean() -> None:
    """What POST /api/v1/agent loads on Lambda with its store there: neither a general HTTP client nor SQLite."""
    settings = {
        "SAMPAN_STORE": "dynamodb",
        "SAMPAN_TABLE": "t",
        "SAMPAN_QUEUE": "sqs",
        "SAMPAN_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/1/q",
        "AWS_REGION": "us-east-1",
        "MODEL_NAME": "openai:m",
        "MODEL_API_KEY": "k",
    }
    code = f"""
import os
os.environ.update({settings!r})
from handlers import _shared, api
_shared.asgi()
"""
    loaded = modules_loaded_by(code, ROOT)
    assert not loaded.intersection({*HEAVY, "pydantic", "httpcore", "h11", "sqlite3"})
    assert "mangum" in loaded


def test_answering_on_lambda_is_lean(tmp_path: Path) -> None:
    """A cold start of handlers/api.py up to its first answer loads nothing that other functions need."""
    code = f"""
import json, os, sys
os.environ.update(SAMPAN_STORE="memory", SAMPAN_AGENTS={str(ROOT / "tests/projects/history/agents")!r})
os.environ["AWS_LAMBDA_FUNCTION_NAME"] = "api"  # where everybody must show a key
from handlers import _shared, api
with open({str(ROOT / "events/api.hello.json")!r}) as file:
    event = json.load(file)
assert api.handler(event, None)["statusCode"] == 401
_, key = _shared.wait_for(_shared.app().door.keys.create())
event["headers"]["authorization"] = "Bearer " + key
assert api.handler(event, None)["statusCode"] == 200
ours = ("api.talk", "api.ws", "api.connections", "console.wsgi", "channels.gateway", "cli")
assert not [name for name in ours if f"agent_core.{{name}}" in sys.modules]
"""
    loaded = modules_loaded_by(code, tmp_path)
    # The agent has a tool: one of plain types is told to a model without pydantic.
    assert not loaded.intersection((*HEAVY, *HEAVY_ON_LAMBDA, "pydantic"))
    assert "starlette" in loaded


# -- public names


def test_public_names_are_sorted_and_complete() -> None:
    """`__all__` lists what a user may import from agent_core, no more and no less."""
    import agent_core  # here, not above: the rules about files hold even when the package can't be imported

    submodules = {path.stem for path in (ROOT / "agent_core").iterdir()} | {"annotations"}
    listed = list(agent_core.__all__)
    assert listed == sorted(listed)
    for name in listed:
        assert getattr(agent_core, name).__doc__, f"{name} has no docstring"
    public = {name for name in vars(agent_core) if not name.startswith("_")} - submodules
    # A name that is loaded on first use need not be there yet, but what is there must be listed.
    assert not public - set(listed)
    assert set(listed) <= set(dir(agent_core)), "dir() must tell of the names loaded on first use"


# -- the docs tell of everything


@cache
def documentation() -> str:
    pages = sorted((ROOT / "docs").rglob("*.md"))
    assert pages, "docs/ has no page"
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def test_every_setting_is_documented() -> None:
    """Each field of Settings stands in the docs under the name of its environment variable."""
    from agent_core.settings import Settings, variable  # here, for the reason given above

    names = [variable(field) for field in Settings.__struct_fields__]
    assert names
    missing = [name for name in names if f"`{name}`" not in documentation()]
    complain(missing, "settings that no page in docs/ tells of")


def test_every_plugin_is_documented() -> None:
    names = list(PROJECT["project"]["entry-points"]["sampan.plugins"])
    assert names
    complain(
        [name for name in names if f"`{name}`" not in documentation()],
        "plugins that no page in docs/ tells of",
    )


def test_every_handler_is_documented() -> None:
    names = [path.name for path in (ROOT / "handlers").glob("*.py") if not path.name.startswith("_")]
    missing = [name for name in names if f"handlers/{name}" not in documentation()]
    complain(missing, "handlers that no page in docs/ tells of")


# -- sizes


def test_functions_are_short() -> None:
    problems = [
        f"{place(path, node)} {node.name}: {length} lines"
        for path in source_files()
        for node in functions(path)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    ]
    complain(problems, f"no function over {FUNCTION_LINES} lines")


def test_constructors_are_small() -> None:
    """Dataclasses and Structs write their own __init__, so they don't come up here."""
    problems = []
    for path in source_files():
        for node in functions(path):
            given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            if node.name == "__init__" and len(given) - 1 > INIT_PARAMETERS:
                problems.append(f"{place(path, node)} takes {len(given) - 1}")
    complain(problems, f"no __init__ with more than {INIT_PARAMETERS} parameters: group them in an object")


# -- what no file may hold


def test_no_mocks_and_no_sleeps() -> None:
    """Doubles are real implementations (agent_core/testing.py); a test waits for an event, not for time to pass."""
    problems = []
    for path in repository_files():
        if path.suffix != ".py":
            continue
        for node in ast.walk(parsed(path)):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if any(f"{module}.{name}".strip(".").startswith(("unittest.mock", "mock.")) for name in names):
                problems.append(f"{place(path, node)} imports a mock")
            if path.is_relative_to(ROOT / "tests") and _is_sleep(node):
                problems.append(f"{place(path, node)} sleeps")
    complain(problems, "no mocks, no sleeps in tests")


def test_no_text_is_run_as_code() -> None:
    """Whatever a model, a user or a store says stays data: nothing evaluates text, and no shell reads it."""
    named = ("eval", "exec", "compile", "__import__")
    loaders = ("pickle", "marshal", "shelve", "dill", "cloudpickle")
    problems = []
    for path in source_files():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id in named:
                    problems.append(f"{place(path, node)} calls {node.func.id}")
                if any(
                    word.arg == "shell"
                    and not (isinstance(word.value, ast.Constant) and not word.value.value)
                    for word in node.keywords
                ):
                    problems.append(f"{place(path, node)} starts a shell")
            elif isinstance(node, ast.Import | ast.ImportFrom):
                modules = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                )
                if any(module.partition(".")[0] in loaders for module in modules):
                    problems.append(f"{place(path, node)} loads objects from bytes")
    complain(problems, "no text is run as code")


def _is_sleep(node: ast.AST) -> bool:
    """time.sleep(...) or asyncio.sleep(more than 0). Letting the loop turn once, sleep(0), is no waiting."""
    if not (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep"
    ):
        return False
    if not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("time", "asyncio", "anyio")):
        return False
    return not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)


# Put together from pieces, so that this file passes its own test.
FORBIDDEN_HOSTS = tuple(
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("deb", "debian", "org"),
        ("crates", "io"),
    ]
)
MACHINE_PATH = re.compile(r"(?<![\w.~$}{/-])/(?:work|root|home|Users)/[\w.]")


@pytest.mark.parametrize("what", ["paths", "hosts"])
def test_no_traces_of_a_machine(what: str) -> None:
    """No file names a folder of the machine it was written on, or a package registry."""
    problems = []
    for path in repository_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            found: Any = (
                MACHINE_PATH.search(line)
                if what == "paths"
                else any(host in line for host in FORBIDDEN_HOSTS)
            )
            if found:
                problems.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    complain(problems, f"no {what} of a machine or registry")
