"""Which versions of the TPM's libraries this machine has, as far as that can be told.

Neither tpm2-tss nor libtpms tells its version to the program that uses it. It is
read from what the machine keeps beside the library, best first:

1. Debian's list of packages, which also says what the distribution has mended;
2. the pkg-config file in the library's directory, which a build leaves there;
3. for libtpms, the file's name; for tpm2-tss, what tpm2-pytss was built with.

Nothing is started, and nothing that cannot be read is an error: the version is
then unknown. An emulated TPM says what it is made of, but not which version, and
may run on another machine: only one that is reached on this machine is looked up.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hwtrust.tpm.advisories import Exposure, Installed, Library, exposure_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hwtrust.tpm.discover import Identity

_DPKG: Final = "var/lib/dpkg/status"
_DIRECTORIES: Final = ("usr/local/lib", "usr/lib/*-linux-*", "usr/lib64", "usr/lib")
_NAMED: Final = re.compile(r"libtpms\.so\.(\d+\.\d+\.\d+)")
_EMULATED: Final = re.compile(r"SW\s*TPM")
_HERE: Final = re.compile(r"swtpm(:path=|:?$|:.*host=(localhost|127\.|::1))")


def libraries(
    tpm: Identity | None = None, *, tcti: str = "", root: Path = Path("/")
) -> tuple[Installed, ...]:
    """The libraries that a process with a TPM uses; the TPM's own where it is an emulated one.

    `tcti` says how the TPM is reached. `root` is where files are looked for.
    """
    found = [tss2(root)]
    if tpm is not None and is_emulated(tpm):
        here = _HERE.match(tcti) is not None
        found.append(libtpms(root) if here else Installed(Library.LIBTPMS, ""))
    return tuple(found)


def exposures(found: Iterable[Installed]) -> tuple[Exposure, ...]:
    """The advisories that libraries may be open to."""
    judged = (exposure_of(item) for item in found)
    return tuple(item for item in judged if item is not None)


def is_emulated(tpm: Identity) -> bool:
    """Whether a TPM says that it is libtpms: of swtpm, and of a virtual machine's host."""
    return tpm.manufacturer == "IBM" and _EMULATED.fullmatch(tpm.vendor) is not None


def tss2(root: Path = Path("/")) -> Installed:
    """The TPM library."""
    file = _first(root, "libtss2-esys.so.0")
    package = _package(root, "libtss2-esys-") if _is_packaged(root, file) else ""
    if package:
        return Installed(Library.TSS2, _upstream(package), package)
    beside = _pkg_config(file.parent / "pkgconfig" / "tss2-esys.pc") if file else ""
    return Installed(Library.TSS2, beside or _built_with())


def libtpms(root: Path = Path("/")) -> Installed:
    """The library of emulated TPMs on this machine."""
    file = _first(root, "libtpms.so.0")
    package = _package(root, "libtpms0") if _is_packaged(root, file) else ""
    if package:
        return Installed(Library.LIBTPMS, _upstream(package), package)
    # libtpms.so.0 is a link to libtpms.so.0.9.2.
    named = _NAMED.fullmatch(file.resolve().name) if file else None
    return Installed(Library.LIBTPMS, named[1] if named else "")


def _first(root: Path, name: str) -> Path | None:
    for directory in _DIRECTORIES:
        for file in sorted(root.glob(f"{directory}/{name}")):
            return file
    return None


def _is_packaged(root: Path, file: Path | None) -> bool:
    return file is not None and "local" not in file.relative_to(root).parts


def _package(root: Path, prefix: str) -> str:
    """The version of the installed Debian package whose name starts with `prefix`."""
    name = status = ""
    for field, value in _fields(root / _DPKG):
        if field == "Package":
            name, status = value, ""
        elif field == "Status":
            status = value
        elif field == "Version" and name.startswith(prefix) and status.endswith(" installed"):
            return value
    return ""


def _fields(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(("Package: ", "Status: ", "Version: ")):
                    field, _, value = line.partition(": ")
                    yield field, value.strip()
    except OSError:
        return


def _upstream(package: str) -> str:
    """The project's own version in a package's: without epoch and revision."""
    version = package.rpartition(":")[2]
    return version.rpartition("-")[0] or version


def _pkg_config(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^Version:\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def _built_with() -> str:
    try:
        from tpm2_pytss.internal.versions import _versions  # noqa: PLC0415 - the last resort
    except ImportError:
        return ""
    return str(_versions.get("tss2-esys", ""))
