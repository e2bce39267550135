"""The zip that functions run from: what is in it, how large it is, that it is whole, and always the same."""

from __future__ import annotations

import importlib.util
import os
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib._bootstrap_external import MAGIC_NUMBER  # type: ignore[import-not-found]
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "aws" / "package.py"
UNCHECKED = 0b01
"""Flags of a .pyc that is never compared with its source. PEP 552"""

MB = 1_000_000
ELF_MACHINES = {"arm64": 183, "x86_64": 62}


def run(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=110,
    )


def made(output: Path, *arguments: object) -> str:
    done = run(*arguments, "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["arm64", "x86_64"])
def package(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, zipfile.ZipFile]]:
    """Processor, what was said, and the zip, as `make package` makes it for Lambda."""
    output = tmp_path_factory.mktemp("package") / "lambda.zip"
    said = made(output, "--arch", request.param)
    with zipfile.ZipFile(output) as archive:
        yield request.param, said, archive


@pytest.fixture(scope="module")
def unzipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package for this machine, as Lambda lays it out."""
    folder = tmp_path_factory.mktemp("here")
    made(folder / "lambda.zip", "--here")
    with zipfile.ZipFile(folder / "lambda.zip") as archive:
        archive.extractall(folder / "task")
    return folder / "task"


def test_it_is_small(package: tuple[str, str, zipfile.ZipFile]) -> None:
    _, _, archive = package
    assert archive.filename is not None
    assert Path(archive.filename).stat().st_size <= 15 * MB
    assert sum(entry.file_size for entry in archive.infolist()) <= 40 * MB


def test_it_says_what_is_in_it_the_largest_first(package: tuple[str, str, zipfile.ZipFile]) -> None:
    _, said, archive = package
    rows = re.findall(r"^ +([\d.]+) MB +([\d.]+) MB  (.+)$", said, re.MULTILINE)
    *parts, (zipped, unzipped, _) = rows
    sizes = [float(size) for size, _, _ in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert {"agent_core", "handlers", "agents", "cryptography", "pydantic_core"} <= {
        name for _, _, name in parts
    }
    assert sum(sizes) == pytest.approx(float(zipped), rel=0.03)
    assert float(unzipped) == pytest.approx(sum(e.file_size for e in archive.infolist()) / MB, abs=0.02)


def test_its_compiled_parts_are_for_that_processor(package: tuple[str, str, zipfile.ZipFile]) -> None:
    arch, _, archive = package
    libraries = [name for name in archive.namelist() if name.endswith(".so")]
    assert {"msgspec", "pydantic_core", "cryptography"} <= {name.split("/")[0] for name in libraries}
    for name in libraries:
        header = archive.read(name)[:20]
        assert header[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", header, 18)[0] == ELF_MACHINES[arch], name


def test_what_no_function_needs_is_not_in_it(package: tuple[str, str, zipfile.ZipFile]) -> None:
    _, _, archive = package
    tops = {name.split("/")[0] for name in archive.namelist()}
    assert not tops & {
        "boto3",
        "botocore",
        "rich",
        "typer",
        "uvicorn",
        "xllamacpp",
        "pytest",
        "tests",
        "pip",
        "own",
    }
    unwanted = ("agent_core/cli/", "agent_core/template/", "agent_core/testing")
    assert not [name for name in archive.namelist() if name.startswith(unwanted)]


def test_every_function_finds_what_it_starts_with(package: tuple[str, str, zipfile.ZipFile]) -> None:
    """Handlers by their files, and the streaming function the program that takes the place of the managed runtime."""
    _, _, archive = package
    functions = (ROOT / "deploy" / "aws" / "functions.yml").read_text(encoding="utf-8")
    handlers = re.findall(r"handler: handlers\.(\w+)\.handler", functions)
    assert len(handlers) == 7
    assert {f"handlers/{name}.py" for name in handlers} <= set(archive.namelist())
    (wrapper,) = re.findall(r"AWS_LAMBDA_EXEC_WRAPPER: /var/task/(\w+)", functions)
    assert archive.getinfo(wrapper).external_attr >> 16 == 0o100755


def test_entries_are_in_order_and_of_one_date(package: tuple[str, str, zipfile.ZipFile]) -> None:
    _, _, archive = package
    names = archive.namelist()
    assert names == sorted(names)
    assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in archive.infolist()} <= {0o100644, 0o100755}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        made(tmp_path / name, "--here")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_all_modules_are_compiled_for_its_python_and_never_checked(unzipped: Path) -> None:
    compiled = list(unzipped.rglob("*.pyc"))
    assert len(compiled) > 500
    for path in compiled:
        head = path.read_bytes()[:8]
        assert head[:4] == MAGIC_NUMBER, path
        assert int.from_bytes(head[4:], "little") == UNCHECKED, path
    for source in unzipped.rglob("*.py"):
        assert Path(importlib.util.cache_from_source(str(source))).exists(), source


def test_a_traceback_has_the_lines_of_our_own_code(unzipped: Path) -> None:
    for folder in ("agent_core", "agents", "handlers"):
        assert list((unzipped / folder).rglob("*.py")), folder
    assert not list((unzipped / "starlette").rglob("*.py"))


def test_it_is_whole(unzipped: Path) -> None:
    """Every module of ours loads from it with nothing else at hand, and each handler is there."""
    code = """
import importlib, pathlib, sys
root = sys.argv[1]
sys.path = [root, *[path for path in sys.path if "site-packages" not in path]]
found = [
    ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    for top in ("agent_core", "agents", "handlers") for path in sorted(pathlib.Path(root, top).rglob("*.py"))
]
found += [  # a package of which parts of what it needs are left out
    ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(pathlib.Path(root, "webauthn").rglob("*.pyc"))
]
optional = {"a2wsgi", "aiohttp", "xllamacpp", "redis", "serverless_wsgi"}
for name in found:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in optional:
            raise
print(len(found), importlib.import_module("pydantic").__file__)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(unzipped)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    count, pydantic = done.stdout.split()
    assert int(count) > 150
    assert pydantic.startswith(str(unzipped))


def test_without_its_python_at_hand_there_are_sources_and_a_warning(tmp_path: Path) -> None:
    """No interpreter of 3.13 is on this path, nor in this home, unless it is the one that runs this test."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3.13").symlink_to(sys.executable)  # a name is no proof
    output = tmp_path / "lambda.zip"
    done = run("--arch", "arm64", "--output", output, HOME=str(tmp_path), PATH=str(tmp_path / "bin"))
    assert done.returncode == 0, done.stderr
    it_is_this_one = sys.version_info[:2] == (3, 13)
    assert ("warning: no Python 3.13 was found here" in done.stdout) is not it_is_this_one
    with zipfile.ZipFile(output) as archive:
        names = archive.namelist()
    assert any(name.endswith(".pyc") for name in names) is it_is_this_one
    assert f"starlette/applications.py{'c' if it_is_this_one else ''}" in names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--python", "3.11"), "--python 3.11: packages are made for 3.12 and later"),
        (("--python", "three"), "--python three: packages are made for 3.12 and later"),
        (("--arch", "riscv64"), "invalid choice: 'riscv64'"),
    ],
)
def test_what_lambda_does_not_offer_is_refused(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
