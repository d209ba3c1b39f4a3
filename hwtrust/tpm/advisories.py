"""Which published advisories hold for the libraries that reach a TPM, or are one.

    installed: name, version, package ─▶ affecting ─▶ Exposure: which advisories, how sure

Rules:
1. An advisory is named only where its project or its CVE record names the first
   good version; `source` says where that stands.
2. A version is all that is judged. A distribution mends its package and keeps the
   version, so that an exposure is a reason to look, and never an error.
3. A version that nobody could tell is `UNKNOWN`, and neither good nor bad.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec

Version = tuple[int, ...]


class Library(StrEnum):
    """What the table knows."""

    TSS2 = "tpm2-tss"
    """The TPM library that this process uses."""

    LIBTPMS = "libtpms"
    """The TPM itself, where it is an emulated one: of swtpm, and of most virtual machines."""


class Advisory(msgspec.Struct, frozen=True):
    """One published fault. `fixed`: the first good version of each branch, oldest first."""

    name: str
    library: Library
    problem: str
    fixed: tuple[Version, ...]
    source: str
    since: Version = ()

    def affects(self, version: Version) -> bool:
        """Whether a version as its project made it has the fault."""
        if version < self.since or version >= self.fixed[-1]:
            return False
        return not any(version[:2] == good[:2] and version >= good for good in self.fixed)


class Installed(msgspec.Struct, frozen=True):
    """A library as it was found. `package` is its distribution's name for this version."""

    library: Library
    version: str
    package: str = ""


class Certainty(StrEnum):
    """How sure an exposure is."""

    VERSION = "version"
    """The version is one that has the faults."""

    PATCHED = "patched"
    """As `VERSION`, and the package's name says that its distribution mends it."""

    UNKNOWN = "unknown"
    """The version is not known here, and old ones have faults."""


class Exposure(msgspec.Struct, frozen=True):
    """The advisories that a library may be open to, and what was found of it."""

    installed: Installed
    certainty: Certainty
    advisories: tuple[Advisory, ...]

    @property
    def good(self) -> Version:
        """The lowest later version that has none of the library's known faults."""
        known, version = _known(self.installed.library), version_of(self.installed.version)
        candidates = {good for item in known for good in item.fixed if good > version}
        return min(c for c in candidates if not any(item.affects(c) for item in known))

    @property
    def words(self) -> str:
        """One line for people."""
        found, names = self.installed, ", ".join(item.name for item in self.advisories)
        if self.certainty is Certainty.UNKNOWN:
            return f"{found.library} of an unknown version: ask who runs it about {names}"
        good = ".".join(map(str, self.good))
        what = f"{found.library} {found.version} has known faults, mended in {good}: {names}"
        if self.certainty is Certainty.PATCHED:
            return f"{what}; your distribution may have mended them in its {found.package}"
        return what


_TSS2_CHANGES: Final = "https://github.com/tpm2-software/tpm2-tss/blob/4.1.x/CHANGELOG.md"
_TSS2_OF_2026: Final = (
    "GHSA-q759-vqg7-8rc5",
    "GHSA-7638-f8gq-c475",
    "GHSA-p3px-r4mm-jpw5",
    "GHSA-x5j2-26fc-hhc3",
    "GHSA-gf8g-2r5c-74c7",
    "GHSA-mj78-pj5v-wvjx",
    "GHSA-v2qp-xh5m-44mf",
    "GHSA-2q5v-c7hv-fvpf",
    "GHSA-pcpw-8625-jqcp",
    "GHSA-6grq-c24j-xcjr",
)

ADVISORIES: Final = (
    Advisory(
        name="CVE-2023-22745",
        library=Library.TSS2,
        problem="a response code of an unknown layer overflows the buffer of its text",
        fixed=((3, 2, 2), (4, 0, 1)),
        source="https://nvd.nist.gov/vuln/detail/CVE-2023-22745",
    ),
    Advisory(
        name="CVE-2024-29040",
        library=Library.TSS2,
        problem="Fapi_VerifyQuote takes a quote that no TPM made; hwtrust verifies its own way",
        fixed=((3, 2, 3), (4, 0, 2), (4, 1, 0)),
        source="https://nvd.nist.gov/vuln/detail/CVE-2024-29040",
    ),
    *(
        Advisory(
            name=name,
            library=Library.TSS2,
            problem="one of the security fixes of July 2026",
            fixed=((4, 1, 4), (4, 2, 0)),
            source=_TSS2_CHANGES,
        )
        for name in _TSS2_OF_2026
    ),
    Advisory(
        name="CVE-2023-1017",
        library=Library.LIBTPMS,
        problem="a crafted command writes two bytes past the end of its buffer",
        fixed=((0, 7, 12), (0, 8, 9), (0, 9, 6), (0, 10, 0)),
        source="https://nvd.nist.gov/vuln/detail/CVE-2023-1017",
    ),
    Advisory(
        name="CVE-2023-1018",
        library=Library.LIBTPMS,
        problem="a crafted command reads two bytes past the end of its buffer",
        fixed=((0, 7, 12), (0, 8, 9), (0, 9, 6), (0, 10, 0)),
        source="https://nvd.nist.gov/vuln/detail/CVE-2023-1018",
    ),
    Advisory(
        name="CVE-2025-49133",
        library=Library.LIBTPMS,
        problem="signing with an HMAC key under another key's scheme ends the TPM",
        fixed=((0, 7, 12), (0, 8, 10), (0, 9, 7), (0, 10, 1)),
        source="https://nvd.nist.gov/vuln/detail/CVE-2025-49133",
    ),
    Advisory(
        name="CVE-2026-21444",
        library=Library.LIBTPMS,
        problem="with OpenSSL 3, symmetric encryption gives back the wrong initialization vector",
        fixed=((0, 10, 2),),
        since=(0, 10, 0),
        source="https://nvd.nist.gov/vuln/detail/CVE-2026-21444",
    ),
)
_PATCHED: Final = re.compile(r"[+~](?:deb\d+u|rpi)|ubuntu|\.(?:el|fc)\d")
_NUMBERS: Final = re.compile(r"\d+(?:\.\d+)+")


def version_of(text: str) -> Version:
    """The numbers of a version such as `4.1.3-1.2` or `1:0.9.2`; () where there are none."""
    found = _NUMBERS.search(text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def exposure_of(installed: Installed) -> Exposure | None:
    """What an installed library may be open to; nothing where it is good."""
    known = _known(installed.library)
    version = version_of(installed.version)
    if not version:
        return Exposure(installed, Certainty.UNKNOWN, known)
    affecting = tuple(item for item in known if item.affects(version))
    if not affecting:
        return None
    patched = _PATCHED.search(installed.package) is not None
    return Exposure(installed, Certainty.PATCHED if patched else Certainty.VERSION, affecting)


def _known(library: Library) -> tuple[Advisory, ...]:
    return tuple(item for item in ADVISORIES if item.library is library)
