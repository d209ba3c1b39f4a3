"""Rules for IMA logs to begin with and to edit: from a log of a good machine, or from a tree.

A log that rules are made from is believed: take it from a machine that is known to
be good, better after its log was verified. What comes out is TOML, the table of
`hwtrust.verify.logs.ima_rules.ImaRules`. Rules:

1. What would have to be accepted unseen is left out: violations, `boot_aggregate`,
   which each boot has its own, and digests by MD5, SHA-1 or whatever is not known.
2. What is left out is counted in a comment, so that nobody takes it for accepted.
3. Names that TOML cannot spell are left out as well.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from hwtrust.errors.logs import ImaRulesError
from hwtrust.wire.logs.ima_template import BOOT_AGGREGATE, DIGEST_SIZES, FileDigest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hwtrust.wire.logs.ima_template import ImaEntry

_WEAK: Final = frozenset({"md5", "sha1", "rmd160"})


def reference_from_ima(entries: Iterable[ImaEntry]) -> str:
    """Rules that accept what is in a log, TOML.

    Raises:
        ImaRulesError: nothing in it can be accepted.
        MalformedError, UnsupportedError: an entry is not of its form.
    """
    files: dict[str, set[str]] = {}
    buffers: dict[str, set[str]] = {}
    left: dict[str, int] = {}
    for entry in entries:
        path, digest = entry.path, entry.digest
        if path == BOOT_AGGREGATE and entry.buffer is None:
            continue
        reason = _reason(entry, digest)
        if reason:
            left[reason] = left.get(reason, 0) + 1
        else:
            names = files if entry.buffer is None else buffers
            names.setdefault(path, set()).add(str(digest))
    return _document(files, buffers, left)


def reference_from_tree(entries: Iterable[tuple[str, bytes]]) -> str:
    """Rules that accept files by their paths, as the device has them, and SHA-256 digests; TOML.

    Raises:
        ImaRulesError: there are none, or a path is not absolute.
    """
    files: dict[str, set[str]] = {}
    left: dict[str, int] = {}
    for path, digest in entries:
        if not path.startswith("/"):
            raise ImaRulesError(f"{path!r} is no absolute path")
        # The kernel writes it so, too.
        name = path.replace(" ", "_")
        if _spelled(name):
            files.setdefault(name, set()).add(str(FileDigest("sha256", digest)))
        else:
            left["names that are not of UTF-8"] = left.get("names that are not of UTF-8", 0) + 1
    return _document(files, {}, left)


def _reason(entry: ImaEntry, digest: FileDigest | None) -> str:
    """Why an entry is left out; empty if it is not."""
    if entry.violation:
        return "violations"
    if digest is None or not any(digest.digest):
        return "entries without a digest that is believed"
    if digest.algorithm in _WEAK or digest.algorithm not in DIGEST_SIZES:
        return "entries without a digest that is believed"
    if entry.path.encode() != entry.name or not _spelled(entry.path):
        return "names that are not of UTF-8"
    return ""


def _spelled(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _document(
    files: Mapping[str, set[str]], buffers: Mapping[str, set[str]], left: Mapping[str, int]
) -> str:
    if not files and not buffers:
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(left.items()))
        raise ImaRulesError(
            f"there is nothing that rules could accept: {told or 'neither files nor buffers'}"
        )
    lines = ["# What the kernel may measure (IMA). Look through it before you use it."]
    lines += [f"# left out: {count} {reason}" for reason, count in sorted(left.items())]
    lines += ["", "[ima]", "# globs of paths that are not looked at; * is any characters"]
    lines += ['# excludes = ["/var/log/*"]', "# keys that sign files, PEM", "# keys = []", ""]
    lines += ["[ima.digests]", *_table(files)]
    if buffers:
        lines += ["", "[ima.buffers]", *_table(buffers)]
    return "\n".join(lines) + "\n"


def _table(names: Mapping[str, set[str]]) -> list[str]:
    return [f"{_quoted(name)} = {json.dumps(sorted(names[name]))}" for name in sorted(names)]


def _quoted(name: str) -> str:
    # A JSON string of ASCII is a TOML string, but for what lies beyond 16 bits and for DEL.
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
