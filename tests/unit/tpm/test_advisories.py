"""Which published advisories a version is open to, and how a version is found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm.advisories import (
    ADVISORIES,
    Certainty,
    Exposure,
    Installed,
    Library,
    exposure_of,
    version_of,
)
from hwtrust.tpm.discover import Identity, identify, open_tpm
from hwtrust.tpm.installed import exposures, is_emulated, libraries, libtpms, tss2

ROOT = Path(__file__).resolve().parents[3]
LIB = "usr/lib/x86_64-linux-gnu"
CHIP = Identity(
    manufacturer="IFX",
    vendor="SLB9672",
    revision="1.59",
    firmware_version=0,
    owner_auth_set=False,
    lockout_auth_set=False,
    in_lockout=False,
    lockout_counter=0,
    lockout_recovery=0,
)


def open_to(library: Library, version: str, package: str = "") -> Exposure:
    """What a version is open to; it must be open to something."""
    exposure = exposure_of(Installed(library, version, package))
    assert exposure is not None
    return exposure


def names(exposure: Exposure) -> set[str]:
    """The CVE records, without those that have no number yet."""
    return {item.name for item in exposure.advisories if item.name.startswith("CVE")}


@pytest.mark.parametrize(
    ("library", "version", "expected"),
    [
        (Library.TSS2, "3.2.1", {"CVE-2023-22745", "CVE-2024-29040"}),
        (Library.TSS2, "3.2.2", {"CVE-2024-29040"}),
        (Library.TSS2, "3.2.3", set()),
        (Library.TSS2, "4.0.0", {"CVE-2023-22745", "CVE-2024-29040"}),
        (Library.TSS2, "4.1.3", set()),
        (Library.LIBTPMS, "0.9.2", {"CVE-2023-1017", "CVE-2023-1018", "CVE-2025-49133"}),
        (Library.LIBTPMS, "0.9.6", {"CVE-2025-49133"}),
        (Library.LIBTPMS, "0.10.0", {"CVE-2025-49133", "CVE-2026-21444"}),
        (Library.LIBTPMS, "0.10.1", {"CVE-2026-21444"}),
    ],
)
def test_a_version_is_open_to_what_was_mended_after_it(
    library: Library, version: str, expected: set[str]
) -> None:
    """Each branch has its own first good version, and none is named that it has."""
    exposure = open_to(library, version)
    assert names(exposure) == expected
    assert exposure.certainty is Certainty.VERSION


@pytest.mark.parametrize(
    ("library", "version"),
    [
        (Library.TSS2, "4.1.4"),
        (Library.TSS2, "4.2.0"),
        (Library.TSS2, "5.0.0"),
        (Library.LIBTPMS, "0.9.7"),
        (Library.LIBTPMS, "0.10.2"),
        (Library.LIBTPMS, "0.11.0"),
    ],
)
def test_a_good_version_is_passed_over_in_silence(library: Library, version: str) -> None:
    """Nobody is warned of what does not concern them."""
    assert exposure_of(Installed(library, version)) is None


@pytest.mark.parametrize(
    ("library", "version", "good"),
    [
        (Library.TSS2, "3.2.1", (4, 1, 4)),
        (Library.TSS2, "4.1.3", (4, 1, 4)),
        (Library.LIBTPMS, "0.9.2", (0, 9, 7)),
        (Library.LIBTPMS, "0.10.0", (0, 10, 2)),
    ],
)
def test_the_version_that_is_named_as_good_has_no_known_fault(
    library: Library, version: str, good: tuple[int, ...]
) -> None:
    """The nearest one, so that no more is asked for than is needed."""
    assert open_to(library, version).good == good
    assert exposure_of(Installed(library, ".".join(map(str, good)))) is None


@pytest.mark.parametrize(
    "package", ["0.9.2-3.1+deb12u1", "0.9.2-3ubuntu1.1", "0.9.2-2.el9", "0.9.2-4~deb13u1"]
)
def test_a_package_that_its_distribution_mends_is_said_to_be_one(package: str) -> None:
    """The version stays, so that nothing is asserted."""
    exposure = open_to(Library.LIBTPMS, "0.9.2", package)
    assert exposure.certainty is Certainty.PATCHED
    assert package in exposure.words


def test_a_version_that_nobody_knows_is_neither_good_nor_bad() -> None:
    """All that an old one would have is named, and who has to be asked."""
    exposure = open_to(Library.LIBTPMS, "")
    assert exposure.certainty is Certainty.UNKNOWN
    assert len(exposure.advisories) == 4


def test_every_advisory_is_named_once_and_says_where_it_stands() -> None:
    """Of each library there are some, each with its source and its good versions in order."""
    assert {item.library for item in ADVISORIES} == set(Library)
    assert len({item.name for item in ADVISORIES}) == len(ADVISORIES)
    for item in ADVISORIES:
        assert item.fixed
        assert list(item.fixed) == sorted(item.fixed)
        assert item.source.startswith("https://")
        assert re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-[2-9cfghjmpqrvwx]{4}){3}", item.name)


def test_the_documents_table_is_the_programs() -> None:
    """docs/platforms.md names each advisory, its source and the versions that mend it."""
    shown = (ROOT / "docs" / "platforms.md").read_text()
    for item in ADVISORIES:
        mended = ", ".join(".".join(map(str, version)) for version in item.fixed)
        row = f"| {item.library} | [{item.name}]({item.source}) | {mended} | {item.problem} |"
        assert row in shown
    assert shown.count("| tpm2-tss | [") + shown.count("| libtpms | [") == len(ADVISORIES)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("4.1.3", (4, 1, 3)),
        ("1:0.9.2-3", (0, 9, 2)),
        ("4.2.0-rc2", (4, 2, 0)),
        ("", ()),
        ("unknown", ()),
        ("7", ()),
    ],
)
def test_numbers_are_taken_from_whatever_stands_there(text: str, version: tuple[int, ...]) -> None:
    """What is no version is none."""
    assert version_of(text) == version


# --- what a machine has ---------------------------------------------------------------


def machine(root: Path, *files: str, status: str = "") -> Path:
    """A machine with these files, and this list of packages."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if status:
        (root / "var/lib/dpkg").mkdir(parents=True)
        (root / "var/lib/dpkg/status").write_text(status)
    return root


def stanza(name: str, version: str, status: str = "install ok installed") -> str:
    """A package as dpkg lists it."""
    return f"Package: {name}\nStatus: {status}\nArchitecture: amd64\nVersion: {version}\n\n"


def test_debians_list_of_packages_comes_first(tmp_path: Path) -> None:
    """It says what the distribution has mended; an epoch and a revision are not the project's."""
    status = stanza("libc6", "2.41-12") + stanza("libtss2-esys-3.0.2-0t64", "1:4.1.3-1.2+deb13u1")
    root = machine(tmp_path, f"{LIB}/libtss2-esys.so.0", status=status)
    assert tss2(root) == Installed(Library.TSS2, "4.1.3", "1:4.1.3-1.2+deb13u1")


def test_a_package_that_was_removed_is_not_there(tmp_path: Path) -> None:
    """The list goes on naming it, for its settings."""
    status = stanza("libtpms0", "0.9.2-3.2", "deinstall ok config-files")
    root = machine(tmp_path, f"{LIB}/libtpms.so.0", status=status)
    assert libtpms(root).version == ""


def test_a_library_that_was_built_here_is_not_the_packages(tmp_path: Path) -> None:
    """What lies in /usr/local is found first by the loader as well."""
    status = stanza("libtss2-esys-3.0.2-0t64", "4.1.3-1.2")
    files = ("usr/local/lib/libtss2-esys.so.0", f"{LIB}/libtss2-esys.so.0")
    root = machine(tmp_path, *files, "usr/local/lib/pkgconfig/tss2-esys.pc", status=status)
    (root / "usr/local/lib/pkgconfig/tss2-esys.pc").write_text("Name: tss2-esys\nVersion: 4.2.0\n")
    assert tss2(root) == Installed(Library.TSS2, "4.2.0")


def test_the_file_of_libtpms_tells_its_version(tmp_path: Path) -> None:
    """Where no list of packages does."""
    root = machine(tmp_path, "usr/lib64/libtpms.so.0.10.1")
    (root / "usr/lib64/libtpms.so.0").symlink_to("libtpms.so.0.10.1")
    assert libtpms(root) == Installed(Library.LIBTPMS, "0.10.1")


def test_the_last_resort_is_what_the_binding_was_built_with(tmp_path: Path) -> None:
    """A machine that tells nothing has some tpm2-tss all the same."""
    assert version_of(tss2(tmp_path).version) >= (3, 2)
    assert libtpms(tmp_path) == Installed(Library.LIBTPMS, "")


def test_a_list_of_packages_that_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    """Bytes of any kind, or a directory in its place."""
    root = machine(tmp_path, f"{LIB}/libtss2-esys.so.0", "var/lib/dpkg/status/file")
    assert tss2(root).package == ""
    other = machine(tmp_path / "other", f"{LIB}/libtss2-esys.so.0", status="Package\n\n")
    (other / "var/lib/dpkg/status").write_bytes(b"\xff\x00Package: \nVersion: \xff\n" * 3)
    assert tss2(other).package == ""


# --- which of it a TPM has to do with ----------------------------------------------------


def test_a_chip_is_not_taken_for_an_emulated_tpm(tmp_path: Path) -> None:
    """Of a chip only the TPM library is looked up."""
    assert not is_emulated(CHIP)
    found = libraries(CHIP, tcti="device:/dev/tpmrm0", root=tmp_path)
    assert [item.library for item in found] == [Library.TSS2]


def test_a_software_tpm_says_what_it_is_and_this_machine_its_version(tpm: Swtpm) -> None:
    """The versions of both libraries are known, and what is said of them is the table's."""
    with open_tpm(tpm.tcti) as opened:
        identity = identify(opened)
    assert is_emulated(identity)
    found = libraries(identity, tcti=tpm.tcti)
    assert [item.library for item in found] == [Library.TSS2, Library.LIBTPMS]
    assert all(version_of(item.version) for item in found)
    assert all(item.certainty is not Certainty.UNKNOWN for item in exposures(found))


@pytest.mark.parametrize(
    "tcti", ["device:/dev/tpmrm0", "swtpm:host=192.0.2.7,port=2321", "tabrmd:bus_type=session"]
)
def test_an_emulated_tpm_of_another_machine_has_an_unknown_version(tcti: str, tpm: Swtpm) -> None:
    """This machine's own libtpms has nothing to do with a virtual machine's host."""
    with open_tpm(tpm.tcti) as opened:
        identity = identify(opened)
    (emulated,) = [
        item for item in libraries(identity, tcti=tcti) if item.library is Library.LIBTPMS
    ]
    assert emulated == Installed(Library.LIBTPMS, "")
