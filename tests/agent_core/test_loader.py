"""Finding the agents a user wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent_core.agent import Agent
from agent_core.errors import ConfigError
from agent_core.loader import load_agents
from agent_core.settings import Settings

AGENT = "from agent_core import Agent\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty agents folder in the project one stands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = tmp_path / "agents"
    made.mkdir()
    return made


def _write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def _load(source: str = "agents") -> list[str]:
    return [agent.name for agent in load_agents(Settings(agents=source))]


def _complaint(source: str = "agents") -> str:
    with pytest.raises(ConfigError) as error:
        load_agents(Settings(agents=source))
    return error.value.detail


def test_all_modules_of_a_folder_are_read(folder: Path) -> None:
    _write(folder, b=AGENT + "x = Agent(name='b')", a=AGENT + "x = Agent(name='a1')\ny = Agent(name='a2')")
    assert _load() == ["a1", "a2", "b"]


def test_one_file_is_enough(folder: Path) -> None:
    _write(folder, b=AGENT + "x = Agent(name='b')", a="raise RuntimeError('not this one')")
    assert _load("agents/b.py") == ["b"]


def test_an_importable_package_is_read(folder: Path) -> None:
    package = folder.parent / "company_bots"
    package.mkdir()
    _write(package, __init__="", sales=AGENT + "bot = Agent(name='sales')")
    assert _load("company_bots") == ["sales"]
    assert _load("company_bots.sales") == ["sales"]


def test_a_subfolder_with_init_is_a_module(folder: Path) -> None:
    (folder / "support").mkdir()
    _write(
        folder / "support",
        __init__="from .words import HELLO\n" + AGENT + "a = Agent(name=HELLO)",
        words="HELLO = 'hi'",
    )
    assert _load() == ["hi"]


def test_names_of_the_standard_library_hide_nothing(folder: Path) -> None:
    """`agents/email.py` is an agent, and `email` stays what it was for everybody else."""
    _write(
        folder,
        email=AGENT + "x = Agent(name='mail')",
        queue=AGENT
        + "import queue as q, email.message\nassert q.SimpleQueue and email.message.Message\nx = Agent(name='q')",
    )
    assert _load() == ["mail", "q"]


def test_an_installed_library_called_agents_does_no_harm(folder: Path, tmp_path: Path) -> None:
    """Another package on the path has the folder's name; the folder is what counts."""
    _write(folder, mine=AGENT + "x = Agent(name='mine')")
    library = tmp_path / "site" / "agents"
    library.mkdir(parents=True)
    _write(library, __init__=AGENT + "x = Agent(name='theirs')")
    sys.path.insert(0, str(library.parent))
    assert _load() == ["mine"]


def test_modules_share_code_by_relative_import_and_by_the_project(folder: Path) -> None:
    _write(
        folder,
        _words="GREETING = 'hello'",
        a="from ._words import GREETING\nimport shop_prices\n" + AGENT + "x = Agent(name=GREETING)",
    )
    _write(folder.parent, shop_prices="TABLE = {}")
    assert _load() == ["hello"]


def test_an_agent_seen_twice_is_one(folder: Path) -> None:
    _write(folder, a=AGENT + "x = Agent(name='one')\nalias = x", b="from .a import x")
    assert _load() == ["one"]


def test_two_agents_of_one_name_are_refused(folder: Path) -> None:
    _write(folder, a=AGENT + "x = Agent(name='one')", b=AGENT + "x = Agent(name='one')")
    words = _complaint()
    assert "'one'" in words
    assert "agents/a.py" in words
    assert "agents/b.py" in words


def test_a_responder_is_an_agent_but_its_class_is_not(folder: Path) -> None:
    _write(
        folder,
        a="""
class Echo:
    name = "echo"
    async def respond(self, messages, turn):
        return messages[-1].text

class Fragile:  # like a proxy of a web framework: fails when touched outside a request
    def __getattr__(self, name):
        raise RuntimeError("outside of a request")

proxy = Fragile()
echo = Echo()
""",
    )
    assert _load() == ["echo"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_that_name", ["line 1", "nothing_of_that_name"]),
        ("\n\nx = 1 / 0", ["line 3", "ZeroDivisionError"]),
        ("x = (", ["line 1", "SyntaxError"]),
        ("from agent_core import Agent\n\na = Agent(name='white space')", ["line 3", "use letters, digits"]),
        ("import sys\nsys.exit(3)", ["line 2", "SystemExit"]),
        ("import _shared", ["line 1", "from ._shared import"]),
    ],
)
def test_a_module_that_fails_is_told_with_file_and_line(folder: Path, text: str, words: list[str]) -> None:
    _write(folder, bad=text, _shared="")
    complaint = _complaint()
    assert complaint.startswith("agents/bad.py, line ")
    for word in words:
        assert word in complaint


def test_the_line_told_is_the_users_own(folder: Path) -> None:
    """An error deep in a library is told at the line of the user's file that led there."""
    _write(folder, a="import json\n\nx = json.loads('{')")
    assert _complaint().startswith("agents/a.py, line 3: JSONDecodeError")


def test_nothing_found_says_what_to_do(folder: Path) -> None:
    _write(folder, a="x = 1")
    assert "agent = Agent(name=...)" in _complaint()
    assert "sampan new" in _complaint("no_such_folder")
    assert "sampan new" in _complaint("no/such/folder")


def test_a_mended_file_loads(folder: Path) -> None:
    """A failed import leaves nothing behind that the next try would trip over."""
    _write(folder, a="x = 1 / 0")
    _complaint()
    _write(folder, a=AGENT + "x = Agent(name='mended')  # longer than before")
    assert _load() == ["mended"]


def test_the_assistant_of_this_repository(root: Path) -> None:
    """The agent out of the box loads in a fresh interpreter, and is the default one."""
    code = (
        "from agent_core import Settings\n"
        "from agent_core.loader import load_agents\n"
        "print([agent.name for agent in load_agents(Settings())])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == f"['{Settings().default_agent}']"


def test_values_are_agents(root: Path) -> None:
    (agent,) = load_agents(Settings(agents=str(root / "agents")))
    assert isinstance(agent, Agent)
    assert [tool.name for tool in agent.tools] == ["current_time", "calculate", "days_between"]
