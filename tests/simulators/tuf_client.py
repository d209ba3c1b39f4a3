"""The program that theupdateframework's conformance suite asks for: our client, over plain HTTP.

Everything is the product's but the way to the server, which the suite serves
without TLS, and the clock: FAKE_TIME is what `faketime` would make of it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from hwtrust.errors import HwTrustError, TargetMissingError
from hwtrust.updates import metadata
from hwtrust.updates.download import download
from hwtrust.updates.source import Source, SystemCas


class PlainSource(Source):
    """A source without TLS, and without the limits that need it."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        super().__init__(place._replace(scheme="https").geturl(), tls=SystemCas())
        self._plain = place.netloc

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._plain, timeout=30)

    def _limit(self, connection: http.client.HTTPConnection, most: int) -> None:
        """The suite's server is not slow."""


def main() -> int:
    """Do what the suite's CLIENT-CLI.md says; 1 when anything was refused."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-dir", type=Path)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("command")
    parser.add_argument("root", type=Path, nargs="?")
    options = parser.parse_args()
    state = options.metadata_dir / "state"
    if options.command == "init":
        state.mkdir(mode=0o700)
        (state / "anchor").write_bytes(options.root.read_bytes())
        (options.metadata_dir / "root.json").write_bytes(options.root.read_bytes())
        return 0
    try:
        listing = refresh(options.metadata_dir, state, options.metadata_url)
        for name in options.target_name:
            if name not in listing.targets:
                raise TargetMissingError(f"no target {name}")
            # The suite's names may be paths: one flat name for each.
            place = options.target_dir / hashlib.sha256(name.encode()).hexdigest()
            source = PlainSource(options.target_base_url)
            download(source, listing.targets[name], place, lambda *_: None)
    except HwTrustError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return 1
    return 0


def refresh(directory: Path, state: Path, url: str) -> metadata.Listing:
    """Refresh, and show the suite what is remembered then."""
    fake = os.environ.get("FAKE_TIME")
    now = datetime.fromisoformat(fake).astimezone(UTC) if fake else datetime.now(UTC)
    anchor = (state / "anchor").read_bytes()
    try:
        return metadata.refresh(anchor, state=state, source=PlainSource(url), now=now)
    finally:
        show(directory, state)


def show(directory: Path, state: Path) -> None:
    """Write the remembered metadata as files of the names that the suite looks for."""
    memory = state / "metadata.json"
    kept = json.loads(memory.read_bytes()) if memory.exists() else {}
    roots = [name for name in kept if name.startswith("root_history/")]
    for name in ("timestamp", "snapshot", "targets"):
        if content := kept.get(f"{name}.json"):
            (directory / f"{name}.json").write_bytes(base64.b64decode(content))
    if roots:
        newest = max(roots, key=lambda name: int(name.removeprefix("root_history/").split(".")[0]))
        (directory / "root.json").write_bytes(base64.b64decode(kept[newest]))


if __name__ == "__main__":
    sys.exit(main())
