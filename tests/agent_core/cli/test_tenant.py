"""`sampan tenant`: exported into a file, then erased; what it says is what was done."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from tests.agent_core.cli.conftest import Sampan


def test_from_beginning_to_end(sampan: Sampan, project: Path) -> None:
    assert sampan("ask", "My name is kanarienvogel").code == 0
    sampan("keys", "create", "--name", "kanarienvogel")
    done = sampan("tenant", "export", "default", "--to", "out.zip")
    assert done.code == 0, done.err
    assert "records and 0 blobs of default are in out.zip." in done.out
    with zipfile.ZipFile(project / "out.zip") as archive:
        assert b"kanarienvogel" in archive.read("records/session.jsonl")
        assert json.loads(archive.read("manifest.json"))["tenant"] == "default"

    refused = sampan("tenant", "erase", "default")
    assert (refused.code, "give --yes" in refused.err) == (1, True)
    told = json.loads(sampan("tenant", "erase", "default", "--yes", "--json").out)
    assert told["records"] > 5
    assert told["ledger"] == 1
    data = b"".join(path.read_bytes() for path in (project / ".sampan").rglob("*") if path.is_file())
    assert b"kanarienvogel" not in data
    acts = [line["act"] for line in json.loads(sampan("audit", "show", "--json").out)]
    assert acts[-2:] == ["switch.thrown", "tenant.erased"]
    assert sampan("audit", "verify").code == 0
    assert sampan("ask", "Hello").code == 0  # the name is free again


def test_what_is_wrong_is_said(sampan: Sampan, project: Path) -> None:
    done = sampan("tenant", "export", "default", "--to", "nowhere/out.zip")
    assert done.code == 1
    assert "there is no folder nowhere" in done.err
