"""The few files that pages load: each under a name that changes with its content.

So they are cached for ever, and a new version is loaded at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_DIRECTORY: Final = Path(__file__).parent / "static"
_DIGITS: Final = 16
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file; `served_name` is `page.0123456789abcdef.css`."""

    served_name: str
    media_type: str
    content: bytes


@cache
def assets() -> dict[str, Asset]:
    """Every file by the name that templates use: `page.css`."""
    found: dict[str, Asset] = {}
    for path in sorted(_DIRECTORY.iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
            served = f"{path.stem}.{digest}{path.suffix}"
            found[path.name] = Asset(served, _TYPES[path.suffix], content)
    return found


def asset_path(name: str) -> str:
    """Where a page finds the file `name`."""
    return f"/ui/static/{assets()[name].served_name}"


@cache
def _served() -> dict[str, Asset]:
    return {asset.served_name: asset for asset in assets().values()}


def find_asset(served_name: str) -> Asset | None:
    """The file of exactly this name and content."""
    return _served().get(served_name)
