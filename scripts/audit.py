"""Asks whether any locked package has a known hole: pip-audit for Python's, npm audit for the deploying command's.

Exit code 0: all were checked and none has one. 1: some have; they are listed. 2: some could not be checked, since a
source of advisories could not be reached or does not know them. That is never taken for "none".
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("dev", "run", "lambda", "emulator", "weights")


class Audit(NamedTuple):
    """What was found: `holes` as lines for people, how many packages were `checked`, why others were not."""

    holes: list[str]
    checked: int
    unchecked: list[str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--osv-url", help="another source of advisories for Python packages")
    parser.add_argument("--registry", help="another npm registry to ask")
    parser.add_argument("--lock", type=Path, action="append", help="only this list of Python packages")
    given = parser.parse_args()
    locks = given.lock or [ROOT / "requirements" / f"{name}.txt" for name in LOCKS]
    audits = {"Python": python_packages(locks, given.osv_url), "npm": node_packages(given.registry)}
    for kind, audit in audits.items():
        print(f"{kind}: {audit.checked} packages checked, {len(audit.holes)} known holes")
        for hole in audit.holes:
            print(f"  {hole}")
        for reason in audit.unchecked[:5]:
            print(f"  NOT CHECKED: {reason}")
        if len(audit.unchecked) > 5:
            print(f"  NOT CHECKED: {len(audit.unchecked) - 5} more")
    if any(audit.holes for audit in audits.values()):
        return 1
    if any(audit.unchecked for audit in audits.values()):
        print("Not all was checked. Run it where the sources of advisories can be reached.")
        return 2
    return 0


def python_packages(locks: list[Path], osv_url: str | None = None) -> Audit:
    """By pip-audit, from the hash-pinned locks; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "audit.json"
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--require-hashes",
            "--disable-pip",
            "--progress-spinner",
            "off",
        ]
        command += ["--vulnerability-service", "osv", "--format", "json", "--output", str(output)]
        command += ["--cache-dir", folder, *(["--osv-url", osv_url] if osv_url else [])]
        for lock in locks:
            command += ["--requirement", str(lock)]
        done = subprocess.run(command, capture_output=True, text=True)
        if not output.exists():
            return Audit([], 0, [f"all: pip-audit failed: {last_line(done.stderr)}"])
        return python_audit(json.loads(output.read_text("utf-8")))


def python_audit(report: dict[str, Any]) -> Audit:
    """Read pip-audit's report. It calls what it could not look up "skipped", and still says that all is well."""
    holes, checked, unchecked = [], 0, []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unchecked.append(package["skip_reason"])
            continue
        checked += 1
        for hole in package["vulns"]:
            names = ", ".join([hole["id"], *hole["aliases"]])
            fixed = ", ".join(hole["fix_versions"]) or "no version yet"
            holes.append(f"{package['name']} {package['version']}: {names}; mended in {fixed}")
    return Audit(holes, checked, unchecked)


def node_packages(registry: str | None = None) -> Audit:
    """By npm audit, from package-lock.json; nothing is installed."""
    npm = shutil.which("npm")
    if npm is None:
        return Audit([], 0, ["all: npm is not installed"])
    command = [npm, "audit", "--json", "--package-lock-only", *(["--registry", registry] if registry else [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    try:
        return node_audit(json.loads(done.stdout))
    except ValueError:
        return Audit([], 0, [f"all: npm audit failed: {last_line(done.stderr)}"])


def node_audit(report: dict[str, Any]) -> Audit:
    """Read npm's report."""
    if "vulnerabilities" not in report:
        reason = report.get("message") or report.get("error", {}).get("summary") or "it gave no report"
        return Audit([], 0, [f"all: npm audit failed: {str(reason).partition(' - ')[0]}"])
    holes = []
    for name, found in sorted(report["vulnerabilities"].items()):
        titles = [one["title"] for one in found["via"] if isinstance(one, dict)]
        if titles:  # else it only depends on one that has
            holes.append(f"{name} {found['range']}: {found['severity']}: {'; '.join(titles)}")
    return Audit(holes, report["metadata"]["dependencies"]["total"], [])


def last_line(text: str) -> str:
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
    return last if len(last) <= 200 else last[:200] + "..."


if __name__ == "__main__":
    sys.exit(main())
