"""Fuzz decoders under coverage guidance; `scripts/fuzz` calls this.

Each target has a process of its own: libFuzzer ends its process. A finding is an
exception outside the error tree, a hang of `HANG_S` seconds, or memory beyond
`MEMORY_MB`. The input that led to it is kept, and named.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

HANG_S: Final = 10
MEMORY_MB: Final = 2048
LONGEST: Final = 64 * 1024
"""Bytes of an input; what is longer is refused by limits that tests hold."""


def fuzz(module: str, name: str, seconds: int, corpus: Path) -> None:
    """Fuzz one target, in this process, which does not survive it."""
    import atheris  # noqa: PLC0415 - before what it instruments

    with atheris.instrument_imports(include=["hwtrust"]):
        from fuzz.targets import table_of, tried  # noqa: PLC0415

        target = table_of(module)[name]
    seeds = list(target.corpus())
    if not seeds:
        raise LookupError(f"{name} has an empty corpus")
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={HANG_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={corpus.parent}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([name, str(corpus), *options], lambda data: tried(target, data))
    atheris.Fuzz()


def supervised(module: str, name: str, seconds: int, kept: Path) -> bool:
    """Fuzz one target in a process of its own, and say what came of it."""
    work = kept / name
    (work / "corpus").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--one", module, f"--seconds={seconds}", name, str(kept)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    units = re.search(r"stat::number_of_executed_units: *(\d+)", done.stderr)
    coverage = re.findall(r"\bcov: (\d+)", done.stderr)
    result = {
        "name": name,
        "runs": int(units[1]) if units else 0,
        "coverage": int(coverage[-1]) if coverage else 0,
        "ok": done.returncode == 0 and units is not None and int(units[1]) > 0,
    }
    print(json.dumps(result), flush=True)  # noqa: T201 - the result
    if not result["ok"]:
        print(done.stdout, done.stderr, file=sys.stderr)  # noqa: T201
    return bool(result["ok"])


def main() -> int:
    """Fuzz what was asked for: exit status 0, or 1 where something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="for each target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at once")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("names", nargs="*", metavar="NAME", help="targets; all by default")
    given = parser.parse_args()
    if given.one:
        name, kept = given.names
        fuzz(given.one, name, given.seconds, Path(kept, name, "corpus"))
        return 0
    from fuzz.targets import modules  # noqa: PLC0415

    names = {name: module for module, table in modules().items() for name in table}
    if given.list:
        print("\n".join(names))  # noqa: T201
        return 0
    unknown = set(given.names) - names.keys()
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}; see --list")
    kept = Path(tempfile.mkdtemp(prefix="hwtrust-fuzz-"))

    def one(name: str) -> bool:
        return supervised(names[name], name, given.seconds, kept)

    with ThreadPoolExecutor(given.jobs) as pool:
        results = list(pool.map(one, given.names or names))
    if not all(results):
        print(f"what was found lies in {kept}", file=sys.stderr)  # noqa: T201
        return 1
    for path in sorted(kept.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    kept.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
