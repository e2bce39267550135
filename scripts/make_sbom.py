"""Lists every package that Sampan is made of, as CycloneDX 1.6: `make_sbom.py [build/sbom.cdx.json]`.

It comes from the lock files alone, with their hashes, so the same locks give the same bytes. `scope` says what a
package is for: `required` is what a Lambda function's zip has, `optional` what a server may have besides, `excluded`
what only development and deployment need. Licences are those that installed packages state.
https://cyclonedx.org/specification
"""

from __future__ import annotations

import base64
import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "sbom.cdx.json"
LOCKS = {
    "lambda": ComponentScope.REQUIRED,
    "run": ComponentScope.OPTIONAL,
    "weights": ComponentScope.OPTIONAL,
    "dev": ComponentScope.EXCLUDED,
    "emulator": ComponentScope.EXCLUDED,
    "rie": ComponentScope.EXCLUDED,
}
"""The locks, what is needed most first: a package stands once, under the first that names it."""

PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "sbom.sampan")


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    bom = make()
    target.parent.mkdir(parents=True, exist_ok=True)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    # When it was made is no part of what it says.
    written = json.loads(text)
    written["metadata"].pop("timestamp", None)
    target.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"{len(bom.components)} packages in {target}")


def make() -> Bom:
    """The whole list."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found: dict[str, Component] = {}
    for component in [*_python(), *_node()]:
        found.setdefault(component.bom_ref.value or "", component)
    bom = Bom(components=found.values())
    bom.metadata.component = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.FRAMEWORK,
        licenses=[LicenseFactory().make_from_string(project["license"])],
        bom_ref="sampan",
    )
    bom.register_dependency(bom.metadata.component, found.values())
    bom.serial_number = uuid.uuid5(NAMESPACE, "\n".join(sorted(found)))
    return bom


def _python() -> Iterator[Component]:
    for lock, scope in LOCKS.items():
        text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")
        for entry in re.split(r"\n(?=[A-Za-z0-9])", text):
            pinned = PINNED.match(entry)
            if not pinned:
                continue
            name, version = pinned.groups()
            purl = PackageURL("pypi", name=name.lower().replace("_", "-"), version=version)
            yield Component(
                name=name,
                version=version,
                purl=purl,
                bom_ref=purl.to_string(),
                scope=scope,
                licenses=_licence(name, version),
                # One of each file (wheel) of that version; the property keeps the rest: CycloneDX means one file by it.
                properties=[
                    Property(name="sampan:file:sha256", value=value) for value in sorted(HASH.findall(entry))
                ],
            )


def _node() -> Iterator[Component]:
    lock = json.loads((ROOT / "package-lock.json").read_text("utf-8"))
    for place, package in sorted(lock["packages"].items()):
        if not place:
            continue
        full = package.get("name") or place.rpartition("node_modules/")[2]
        group, _, name = full.rpartition("/")
        purl = PackageURL("npm", namespace=group or None, name=name, version=package["version"])
        algorithm, _, digest = package["integrity"].partition("-")
        yield Component(
            name=name,
            group=group or None,
            version=package["version"],
            purl=purl,
            bom_ref=purl.to_string(),
            scope=ComponentScope.EXCLUDED,
            hashes=[
                HashType(
                    alg=HashAlgorithm(algorithm.upper().replace("SHA", "SHA-")),
                    content=base64.b64decode(digest).hex(),
                )
            ],
            licenses=[LicenseFactory().make_from_string(package["license"])] if "license" in package else [],
        )


def _licence(name: str, version: str) -> list[License]:
    """What the installed package says, where that version is the installed one."""
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return []
    if told["Version"] != version:
        return []
    words = told["License-Expression"] or told["License"] or ""
    if not words or "\n" in words or len(words) > 60:  # some put the whole text there
        classifiers = [line for line in told.get_all("Classifier", []) if line.startswith("License ::")]
        words = classifiers[0].rpartition(" :: ")[2] if classifiers else ""
    return [LicenseFactory().make_from_string(words)] if words else []


if __name__ == "__main__":
    main()
