"""Bills of materials of the distributions, as CycloneDX 1.5, from uv.lock.

uv says which packages, at which versions, with which digests. Added is what makes a
bill of use to others: licences, as the packages themselves state them, and the
distribution's own. Taken away is what would make two bills of one lock file differ:
the time, and a serial number by chance.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = ("hwtrust", "hwtrust-backend", "hwtrust-device")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:hwtrust:bill-of-materials")


def exported(name: str) -> dict[str, Any]:
    """What uv says of a distribution with all its extras, for users and not for developers."""
    uv = shutil.which("uv", path=f"{ROOT}/.tools/bin:{os.environ['PATH']}")
    if uv is None:
        sys.exit("sbom: uv is not installed: scripts/setup")
    done = subprocess.run(
        [
            *(uv, "export", "--quiet", "--locked", "--offline", "--package", name),
            *("--all-extras", "--no-dev", "--format", "cyclonedx1.5"),
            *("--preview-features", "sbom-export"),
        ],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
    )
    if done.returncode:
        sys.exit(f"sbom: uv could not read uv.lock; its message is above [{name}]")
    bill: dict[str, Any] = json.loads(done.stdout)
    return bill


def licences(name: str) -> list[dict[str, Any]]:
    """The licence that an installed package states, as CycloneDX has it; none if it is silent."""
    try:
        said = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return []  # of another platform
    if "License-Expression" in said:
        return [{"expression": said["License-Expression"]}]
    classified = [
        classifier.rpartition(" :: ")[2]
        for classifier in said.get_all("Classifier") or []
        if classifier.startswith("License ::")
    ]
    stated = classified or [one for one in said.get_all("License") or [] if "\n" not in one]
    return [{"license": {"name": text}} for text in stated]


def bill_of(name: str) -> bytes:
    """The bill of a distribution."""
    bill = exported(name)
    own = bill["metadata"]["component"]
    own["purl"] = f"pkg:pypi/{name}@{own['version']}"
    for component in [own, *bill["components"]]:
        if found := licences(component["name"]):
            component["licenses"] = found
    del bill["metadata"]["timestamp"], bill["serialNumber"]
    text = json.dumps(bill, sort_keys=True)
    bill["serialNumber"] = uuid.uuid5(_NAMESPACE, text).urn
    return json.dumps(bill, indent=2).encode() + b"\n"


def main(directory: Path) -> None:
    """Write the bills into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in DISTRIBUTIONS:
        (directory / f"{name}.cdx.json").write_bytes(bill_of(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
