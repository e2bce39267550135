"""What Sampan is made of: the list is valid and whole, and an audit that could not ask says so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

SIX = "six==1.16.0 --hash=sha256:1e61c37477a1626458e36f7b1d82aa5c9b094fa4802892072e49de9c44c4c926\n"
IDNA = "idna==3.6 --hash=sha256:c05567e9c24a6b9faaa835c4821bad0590fbb9d5779e7caa6e1cc4978e7eb24f\n"


@pytest.fixture(scope="module")
def sbom(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sbom") / "sbom.cdx.json"
    subprocess.run([sys.executable, root / "scripts" / "make_sbom.py", place], check=True)
    return place


def test_the_list_is_valid_cyclonedx(sbom: Path) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(sbom.read_text("utf-8")) is None
    damaged = sbom.read_text("utf-8").replace('"type": "library"', '"type": "libary"', 1)
    assert validator.validate_str(damaged) is not None


def test_the_list_is_whole(sbom: Path, root: Path) -> None:
    listed = {
        component["bom-ref"]: component for component in json.loads(sbom.read_text("utf-8"))["components"]
    }
    locks = [
        root / "requirements" / f"{name}.txt" for name in ("lambda", "run", "dev", "emulator", "weights")
    ]
    for lock in locks:
        pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text("utf-8"), re.MULTILINE)
        assert pins
        for name, version in pins:
            assert f"pkg:pypi/{name.lower().replace('_', '-')}@{version}" in listed
    node = json.loads((root / "package-lock.json").read_text("utf-8"))["packages"]
    versions = {package["version"] for place, package in node.items() if place}
    assert versions <= {one["version"] for ref, one in listed.items() if ref.startswith("pkg:npm/")}
    assert listed["pkg:pypi/msgspec@" + version_of(root, "msgspec")]["scope"] == "required"
    assert listed["pkg:pypi/pytest@" + version_of(root, "pytest", "dev")]["scope"] == "excluded"


def test_each_package_has_its_hash_and_most_their_licence(sbom: Path) -> None:
    components = json.loads(sbom.read_text("utf-8"))["components"]
    for component in components:
        assert component.get("hashes") or component.get("properties"), component["bom-ref"]
    assert sum("licenses" in component for component in components) > 0.9 * len(components)


def test_the_same_locks_give_the_same_bytes(sbom: Path, root: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    subprocess.run([sys.executable, root / "scripts" / "make_sbom.py", again], check=True)
    assert again.read_bytes() == sbom.read_bytes()


def version_of(root: Path, name: str, lock: str = "lambda") -> str:
    text = (root / "requirements" / f"{lock}.txt").read_text("utf-8")
    found = re.search(rf"^{name}==(\S+)", text, re.MULTILINE)
    assert found
    return found[1]


class Advisories(ThreadingHTTPServer):
    """Both sources of advisories, as their pages describe them: OSV's query, and npm's bulk request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.python: dict[str, list[dict[str, Any]]] = {}
        self.node: dict[str, list[dict[str, Any]]] = {}
        self.down = False


class _Handler(BaseHTTPRequestHandler):
    server: Advisories

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.down:
            self._answer(503, {"message": "down"})
        elif self.path.startswith("/-/npm/v1/security/advisories/bulk"):
            self._answer(200, self.server.node)
        elif self.path == "/v1/query":
            vulns = self.server.python.get(json.loads(body)["package"]["name"], [])
            self._answer(200, {"vulns": vulns} if vulns else {})
        else:
            self._answer(404, {})

    def do_GET(self) -> None:
        """What npm asks to find out which way to mend it is."""
        self._answer(404, {})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    server = Advisories()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join(timeout=30)
    assert not thread.is_alive(), "the server did not end"
    server.server_close()


def audit(root: Path, tmp_path: Path, advisories: Advisories, lock: str) -> tuple[int, str]:
    place = tmp_path / "lock.txt"
    place.write_text(lock)
    command = [sys.executable, root / "scripts" / "audit.py", "--lock", place]
    command += ["--osv-url", f"{advisories.url}/v1/query", "--registry", advisories.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_nothing_known(root: Path, tmp_path: Path, advisories: Advisories) -> None:
    code, told = audit(root, tmp_path, advisories, SIX + IDNA)
    assert code == 0, told
    assert "Python: 2 packages checked, 0 known holes" in told
    assert re.search(r"npm: \d{3} packages checked, 0 known holes", told)


def test_holes_are_listed(root: Path, tmp_path: Path, advisories: Advisories) -> None:
    advisories.python["idna"] = [
        {
            "id": "PYSEC-2024-60",
            "aliases": ["CVE-2024-3651"],
            "summary": "Quadratic complexity.",
            "affected": [
                {
                    "package": {"name": "idna", "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.7"}]}],
                }
            ],
        }
    ]
    node = json.loads((root / "package-lock.json").read_text("utf-8"))["packages"]
    name = sorted(place for place in node if place)[0].rpartition("node_modules/")[2]
    advisories.node[name] = [
        {
            "id": 1,
            "title": "It is broken",
            "severity": "high",
            "vulnerable_versions": "*",
            "url": "about:blank",
        }
    ]
    code, told = audit(root, tmp_path, advisories, SIX + IDNA)
    assert code == 1, told
    assert "idna 3.6: PYSEC-2024-60, CVE-2024-3651; mended in 3.7" in told
    assert f"{name} " in told
    assert "high: It is broken" in told


def test_what_could_not_be_asked_is_not_called_well(
    root: Path, tmp_path: Path, advisories: Advisories
) -> None:
    advisories.down = True
    code, told = audit(root, tmp_path, advisories, SIX)
    assert code == 2, told
    assert told.count("NOT CHECKED") == 2
    assert "Not all was checked" in told


def test_a_package_that_the_source_does_not_know_is_not_checked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip-audit calls that "skipped", and still ends well."""
    monkeypatch.syspath_prepend(str(root / "scripts"))
    import audit as script

    skipped = {"dependencies": [{"name": "six", "skip_reason": "not found"}], "fixes": []}
    assert script.python_audit(skipped) == ([], 0, ["not found"])
