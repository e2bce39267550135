"""Makes the zip that all functions run from: `python3 deploy/aws/package.py [--arch arm64] [--python 3.13]`.

In it are Sampan without its command line, `handlers/`, `agents/`, and the locked packages of requirements/lambda.txt as
wheels for Lambda's Python and processor, whatever machine this is. What your agents import besides goes into
agents/requirements.txt. The same input gives the same bytes: names in order, one date, one mode.

Without compiled code a cold start takes twice as long, so each module has its `.pyc`, which is never checked against
its source; packages have nothing else, what is yours and ours keeps its source for the lines of a traceback. Only an
interpreter of the same version compiles: where none is found here, the zip has sources alone, and a warning says so.

`--here` packages for this machine and this Python, for the emulated cloud and for tests.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
LOCK = Path("requirements") / "lambda.txt"
OWN = Path("agents") / "requirements.txt"
CACHE = Path(".make") / "package"

ARCHITECTURES = {"arm64": "aarch64", "x86_64": "x86_64"}
OLDEST = 12
"""Lambda's Python 3.11 is on Amazon Linux 2, whose glibc is too old for the wheels of some packages."""

GLIBC = 34
"""Minor version of the glibc of Amazon Linux 2023, which the later runtimes are on."""

LEFT_OUT = ("agent_core/cli", "agent_core/template", "agent_core/testing.py")
"""What no function needs: the command line, the template of new projects, the tests' doubles."""

USELESS = {"__pycache__", "tests", "test", "bin"}
USELESS_SUFFIXES = {".pyc", ".pyi", ".pyx", ".pxd", ".c", ".h"}
UNUSED = (
    "anyio/_backends/_trio.py",
    "anyio/pytest_plugin.py",
    "cffi",  # cryptography loads its compiled half, _cffi_backend, alone
    "pycparser",
    "pydantic/mypy.py",
    "pydantic/v1",
    "starlette/testclient.py",
    "stdnum/at/postleitzahl.dat",  # tables of postcodes, banks, mobile networks and makers of network cards
    "stdnum/imsi.dat",
    "stdnum/nz/banks.dat",
    "stdnum/oui.dat",
    "werkzeug/debug",
)
"""What of the locked packages nothing of ours loads. An agent that does names the package in its own list."""

ALONE = {"pyasn1_modules": {"__init__.py", "rfc5280.py"}}
"""Packages of which nothing but these modules is loaded: webauthn reads the certificates of security keys."""

KEPT_OF_METADATA = {"METADATA", "entry_points.txt"}
LIMIT_UNZIPPED = 250 * 1024 * 1024
"""https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""

COMPILE = """
import pathlib, py_compile, sys
folder, instead = pathlib.Path(sys.argv[1]), sys.argv[2] == "instead"
for path in sorted(folder.rglob("*.py")):
    name = path.relative_to(folder).as_posix()
    try:
        target = str(path.with_suffix(".pyc")) if instead else None
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(path), target, "/var/task/" + name, doraise=True, invalidation_mode=mode)
    except py_compile.PyCompileError as error:
        sys.exit(f"{name} does not compile: {error}")
    if instead:
        path.unlink()
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--arch", choices=sorted(ARCHITECTURES), default="arm64", help="processor of the functions"
    )
    parser.add_argument("--python", default="3.13", metavar="3.X", help="Python of the functions' runtime")
    parser.add_argument("--here", action="store_true", help="for this machine instead")
    parser.add_argument("--fetch", action="store_true", help="only install the packages, to have them ready")
    parser.add_argument("--output", type=Path, help="default: build/lambda-<arch>-python<3.X>.zip")
    given = parser.parse_args()
    arch, python = given.arch, given.python
    if given.here:
        machine = platform.machine()
        arch = next((name for name, ours in ARCHITECTURES.items() if machine in (name, ours)), "")
        python = f"3.{sys.version_info.minor}"
        if not arch:
            parser.error(
                f"--here: this machine is {machine}; there are {' and '.join(sorted(ARCHITECTURES))}"
            )
    elif not re.fullmatch(r"3\.\d+", python) or int(python[2:]) < OLDEST:
        parser.error(f"--python {python}: packages are made for 3.{OLDEST} and later, as in --python 3.13")
    target = Target(arch, python, given.here)
    if given.fetch:
        list(dependencies(target, find_interpreter(python)))
        return
    name = "local" if given.here else f"{arch}-python{python}"
    output = given.output or PROJECT / "build" / f"lambda-{name}.zip"
    build(output.resolve(), target)


class Target(NamedTuple):
    """What a package is for: processor, Python as `3.13`, and whether that is this machine's own."""

    arch: str
    python: str
    here: bool = False

    def pip_options(self) -> list[str]:
        """What makes pip take wheels for it, the best first."""
        if self.here:
            return ["--only-binary=:all:"]
        machine = ARCHITECTURES[self.arch]
        names = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 16, -1)] + [
            f"manylinux2014_{machine}"
        ]
        wanted = [word for name in names for word in ("--platform", name)]
        return ["--only-binary=:all:", "--implementation", "cp", "--python-version", self.python, *wanted]


def build(output: Path, target: Target) -> None:
    """Make the zip, and say what is in it."""
    compiler = find_interpreter(target.python)
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        for packages in dependencies(target, compiler):
            shutil.copytree(packages, stage, dirs_exist_ok=True)
        own = stage / "own"
        copy_own(own)
        if compiler:
            compile_all(compiler, own, instead=False)
        shutil.copytree(own, stage, dirs_exist_ok=True)
        shutil.rmtree(own)
        write_zip(stage, output)
    report(output)
    if not compiler:
        say(
            f"warning: no Python {target.python} was found here, so the zip has no compiled code: a cold start takes"
            f" about twice as long.\n  Install python{target.python} (apt-get, brew, pyenv, uv), or name it:"
            f" SAMPAN_COMPILER=path-to-python{target.python}"
        )


def dependencies(target: Target, compiler: str) -> Iterator[Path]:
    """Folders with the locked packages, and with those that your agents ask for; kept from one build to the next."""
    lock = PROJECT / LOCK
    if not lock.exists():
        raise SystemExit(f"package: {LOCK} is missing; `sampan new` makes a project that has it")
    folders = [installed(lock, target, "--require-hashes", "--no-deps")]
    own = PROJECT / OWN
    if own.exists():
        # What stands in both lists must be the same version.
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as versions:
            pins = [line.split(" ")[0] for line in lock.read_text("utf-8").splitlines() if "==" in line]
            versions.write("\n".join(pins))
            versions.flush()
            folders.append(installed(own, target, "--constraint", versions.name))
    for folder in folders:
        yield compiled(folder, compiler) if compiler else folder


def installed(lock: Path, target: Target, *options: str) -> Path:
    """A folder with the packages of a list, without what is never loaded."""
    how = f"{target} {Path(__file__).read_text('utf-8')}"
    key = hashlib.sha256(lock.read_bytes() + (PROJECT / LOCK).read_bytes() + how.encode()).hexdigest()[:16]

    def install(fresh: Path) -> None:
        say(f"installing {lock.relative_to(PROJECT)} for {target.arch}, Python {target.python}")
        command = [
            *pip(target),
            "install",
            "-qq",
            "--disable-pip-version-check",
            "--no-compile",
            "--target",
            str(fresh),
        ]
        if subprocess.run([*command, *target.pip_options(), *options, "-r", str(lock)]).returncode:
            raise SystemExit(f"package: pip could not install {lock.relative_to(PROJECT)} (see above)")
        slim(fresh)
        if lock == PROJECT / LOCK:
            remove(fresh, UNUSED)
            for package, modules in ALONE.items():
                remove(fresh / package, {path.name for path in (fresh / package).glob("*")} - modules)

    return kept(key, install)


def compiled(folder: Path, compiler: str) -> Path:
    """The same folder with compiled modules in place of sources."""

    def compile_copy(fresh: Path) -> None:
        shutil.copytree(folder, fresh)
        compile_all(compiler, fresh, instead=True)

    return kept(f"{folder.name}-compiled", compile_copy)


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made once and then kept, whole or not at all."""
    folder = PROJECT / CACHE / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f"{name}.{os.getpid()}")
    try:
        make(fresh)
        try:
            fresh.rename(folder)
        except OSError:  # another build was quicker
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def pip(target: Target) -> list[str]:
    """The pip of this interpreter, or of another one at hand where it installs for a machine elsewhere."""
    others = () if target.here else (shutil.which("python3"), shutil.which("python"))
    for python in filter(None, (sys.executable, *others)):
        if not subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode:
            return [python, "-m", "pip"]
    raise SystemExit("package: no pip found; python3 -m ensurepip, or apt-get install python3-pip")


def find_interpreter(version: str) -> str:
    """An interpreter of that version, or nothing."""
    places = [os.environ.get("SAMPAN_COMPILER", ""), sys.executable, shutil.which(f"python{version}") or ""]
    for store in ("~/.pyenv/versions", "~/.local/share/uv/python"):
        places += [str(path) for path in sorted(Path(store).expanduser().glob(f"*/bin/python{version}"))]
    asks = "import sys; print('%d.%d' % sys.version_info[:2], sys.implementation.name)"
    for place in filter(None, places):
        try:
            done = subprocess.run([place, "-c", asks], capture_output=True, text=True, timeout=30)
        except OSError:
            continue
        if done.stdout.strip() == f"{version} cpython":
            return place
    return ""


def compile_all(python: str, folder: Path, *, instead: bool) -> None:
    """Compile each module below a folder, for where it will lie on Lambda; `instead` of its source or beside it."""
    # The order of sets gets into a .pyc.
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if subprocess.run(
        [python, "-I", "-c", COMPILE, str(folder), "instead" if instead else "beside"], env=environ
    ).returncode:
        raise SystemExit("package: what does not compile can't be deployed (see above)")


def slim(folder: Path) -> None:
    """Remove what is never loaded; metadata, entry points and licences stay."""
    for path in sorted(folder.rglob("*"), reverse=True):
        inside = path.relative_to(folder).parts
        metadata = inside[0].endswith(".dist-info")
        if path.is_dir():
            if path.name in USELESS and not metadata:
                shutil.rmtree(path)
        elif path.suffix in USELESS_SUFFIXES or (
            metadata and len(inside) == 2 and path.name not in KEPT_OF_METADATA and not is_licence(path.name)
        ):
            path.unlink()
        elif metadata and path.name == "METADATA":
            # Its head says name, version and needs; the body is the page of the package index.
            path.write_text(path.read_text("utf-8").partition("\n\n")[0] + "\n", "utf-8")


def remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def is_licence(name: str) -> bool:
    return name.upper().startswith(("LICEN", "COPYING", "NOTICE", "AUTHORS"))


def copy_own(target: Path) -> None:
    """Copy Sampan, from this folder or from where it is installed, the handlers and the agents."""
    leave = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    core = PROJECT / "agent_core"
    if not core.is_dir():
        found = importlib.util.find_spec("agent_core")
        if found is None or found.origin is None:
            raise SystemExit("package: Sampan is not installed here: pip install sampan")
        core = Path(found.origin).parent
    for source, name in (
        (core, "agent_core"),
        (PROJECT / "handlers", "handlers"),
        (PROJECT / "agents", "agents"),
    ):
        shutil.copytree(source, target / name, ignore=leave)
    remove(target, LEFT_OUT)
    wrapper = PROJECT / "deploy" / "aws" / "streaming"
    if wrapper.exists():
        shutil.copy(wrapper, target / "streaming")


def write_zip(folder: Path, output: Path) -> None:
    """Write the files under a folder into a zip, always the same for the same files."""
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = output.with_name(f"{output.name}.{os.getpid()}")
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
            if path.is_file():
                entry = zipfile.ZipInfo(
                    path.relative_to(folder).as_posix()
                )  # of 1980: zip knows no earlier date
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3
                script = path.read_bytes()[:2] == b"#!" and path.suffix == ""
                entry.external_attr = (0o100755 if script else 0o100644) << 16
                archive.writestr(entry, path.read_bytes())
    fresh.replace(output)


def report(output: Path) -> None:
    """Say what is in the zip, the largest first."""
    sizes: Counter[str] = Counter()
    zipped: Counter[str] = Counter()
    with zipfile.ZipFile(output) as archive:
        for entry in archive.infolist():
            sizes[top_of(entry.filename)] += entry.file_size
            zipped[top_of(entry.filename)] += entry.compress_size
    say(f"{'zipped':>9} {'unzipped':>9}")
    for name, size in sorted(zipped.items(), key=lambda item: (-item[1], item[0])):
        say(f"{megabytes(size)} {megabytes(sizes[name])}  {name}")
    say(f"{megabytes(output.stat().st_size)} {megabytes(sizes.total())}  {shown(output)}")
    if sizes.total() > LIMIT_UNZIPPED:
        raise SystemExit(
            "package: Lambda takes at most 250 MB unzipped; leave something out of agents/requirements.txt"
        )


def top_of(name: str) -> str:
    top = name.partition("/")[0]
    return "metadata and licences" if top.endswith(".dist-info") else top


def megabytes(size: int) -> str:
    return f"{size / 1e6:6.2f} MB"


def shown(path: Path) -> str:
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    main()
