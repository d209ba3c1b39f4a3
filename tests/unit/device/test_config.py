"""A configuration says what is meant, or is refused with the place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.device.config import CONFIG_LIMIT, DeviceConfig, TlsKeyChoice
from hwtrust.errors import ConfigError
from hwtrust.tpm.handles import Handles
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.messages import LayerReference, Release, TrustAnchor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = """
state_dir = "state"
trust = "trust.json"
release = "/etc/hwtrust/release.json"
tls_key = "attested"

[tpm]
tcti = "device:/dev/tpmrm0"
pcr = 11
platform_pcrs = [0, 7]
banks = ["sha1", "sha256"]

[layers]
kernel = "/opt/app/kernel"
frontend = "app/frontend"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a configuration file."""

    def made(text: str) -> Path:
        path = tmp_path / "hwtrust.toml"
        path.write_text(text)
        return path

    return made


def test_a_configuration_is_read_with_its_paths_made_absolute(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the file, not to where the program was started."""
    path = write(GOOD)
    monkeypatch.chdir("/")
    config = DeviceConfig.load(str(path))
    assert config.state_dir == str(tmp_path / "state")
    assert config.trust == str(tmp_path / "trust.json")
    assert config.release == "/etc/hwtrust/release.json"
    assert config.layers == {
        "kernel": "/opt/app/kernel",
        "frontend": str(tmp_path / "app" / "frontend"),
    }
    assert config.tls_key is TlsKeyChoice.ATTESTED
    assert config.tpm.tcti == "device:/dev/tpmrm0"
    assert (config.tpm.pcr, config.tpm.platform_pcrs) == (11, (0, 7))
    assert config.banks() == (Alg.SHA1, Alg.SHA256)


def test_a_relative_name_of_the_file_does_as_well(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is given on a command line."""
    path = write(GOOD)
    monkeypatch.chdir(path.parent)
    assert DeviceConfig.load("hwtrust.toml") == DeviceConfig.load(path)


def test_what_is_left_out_has_its_default(write: Callable[[str], Path]) -> None:
    """TCTI by discovery, no platform PCRs, the usual handles, the best TLS key."""
    text = GOOD.replace('tcti = "device:/dev/tpmrm0"', "").replace("platform_pcrs = [0, 7]", "")
    config = DeviceConfig.load(write(text.replace('tls_key = "attested"', "")))
    assert config.tpm.tcti == ""
    assert (config.tpm.platform_pcrs, config.tpm.quoted_pcrs) == ((), ())
    assert (config.tpm.firmware_log, config.tpm.ima_log) == ("", "")
    assert config.handles() == Handles()
    assert config.tls_key is TlsKeyChoice.AUTO
    assert config.tpm.clock_threshold_s == 60
    assert not config.tpm.unsafe_resettable_pcr


def test_logs_lie_where_the_configuration_says(
    write: Callable[[str], Path], tmp_path: Path
) -> None:
    """As every path: relative to the file."""
    chosen = 'pcr = 11\nquoted_pcrs = [8, 9, 10]\nfirmware_log = "/sys/log"\nima_log = "ima"'
    config = DeviceConfig.load(write(GOOD.replace("pcr = 11", chosen)))
    assert config.tpm.quoted_pcrs == (8, 9, 10)
    assert (config.tpm.firmware_log, config.tpm.ima_log) == ("/sys/log", str(tmp_path / "ima"))


def test_handles_can_be_chosen(write: Callable[[str], Path]) -> None:
    """Where the usual ones are taken."""
    chosen = "[tpm.handles]\nak = 0x81010000\nstorage_key = 0x817FFFFF\ncounter = 0x01BFFFFF\n"
    config = DeviceConfig.load(write(GOOD.replace("[layers]", chosen + "[layers]")))
    assert config.handles() == Handles(0x81010000, 0x817FFFFF, 0x01BFFFFF)


REFUSED: dict[str, tuple[str, str]] = {
    "a misspelt option": ("trust =", "trusst ="),
    "an unknown option": ("[tpm]", "nonsense = 1\n[tpm]"),
    "an unknown option of the TPM": ("pcr = 11", "pcr = 11\npcrs = [1]"),
    "an unknown handle": ("[layers]", "[tpm.handles]\nek = 1\n[layers]"),
    "no TPM": ("[tpm]", "[other]"),
    "no PCR": ("pcr = 11", ""),
    "no banks": ('banks = ["sha1", "sha256"]', ""),
    "no layers": ("[layers]", "[layer]"),
    "a PCR of the firmware": ("pcr = 11", "pcr = 7"),
    "a PCR of the kernel's DRTM": ("pcr = 11", "pcr = 17"),
    "a PCR that is not there": ("pcr = 11", "pcr = 24"),
    "a PCR below zero": ("pcr = 11", "pcr = -1"),
    "a PCR that is a word": ("pcr = 11", 'pcr = "11"'),
    "a PCR that is a fraction": ("pcr = 11", "pcr = 11.5"),
    "the debug PCR": ("pcr = 11", "pcr = 16"),
    "the application support PCR": ("pcr = 11", "pcr = 23"),
    "an unsafe PCR of another kind": ("pcr = 11", "pcr = 20\nunsafe_resettable_pcr = true"),
    "the application PCR as a platform PCR": ("[0, 7]", "[0, 11]"),
    "a platform PCR that is not one": ("[0, 7]", "[0, 9]"),
    "a resettable platform PCR": ("[0, 7]", "[0, 16]"),
    "a quoted PCR of the firmware": ("pcr = 11", "pcr = 12\nquoted_pcrs = [7]"),
    "the application PCR as a quoted PCR": ("pcr = 11", "pcr = 12\nquoted_pcrs = [12]"),
    "a platform PCR as a quoted PCR": ("pcr = 11", "pcr = 12\nquoted_pcrs = [11]"),
    "a resettable quoted PCR": ("pcr = 11", "pcr = 12\nquoted_pcrs = [16]"),
    "an unknown bank": ('"sha1", ', '"md5", '),
    "no SHA-256 bank": ('"sha1", "sha256"', '"sha1"'),
    "an unknown kind of TLS key": ('"attested"', '"software"'),
    "a threshold below zero": ("pcr = 11", "pcr = 11\nclock_threshold_s = -1"),
    "a transient handle for a key": ("[layers]", "[tpm.handles]\nak = 0x80000000\n[layers]"),
    "a platform handle for a key": ("[layers]", "[tpm.handles]\nak = 0x81800000\n[layers]"),
    "a platform handle for the storage key": (
        "[layers]",
        "[tpm.handles]\nstorage_key = 0x81800000\n[layers]",
    ),
    "one handle for two keys": (
        "[layers]",
        "[tpm.handles]\nak = 0x81008048\nstorage_key = 0x81008048\n[layers]",
    ),
    "the EK certificate's index for the counter": (
        "[layers]",
        "[tpm.handles]\ncounter = 0x01C0000A\n[layers]",
    ),
    "a key's handle for the counter": (
        "[layers]",
        "[tpm.handles]\ncounter = 0x81018048\n[layers]",
    ),
    "a path that is a number": ('"/opt/app/kernel"', "7"),
    "no TOML": ("[tpm]", "[tpm"),
    "an option twice": ("pcr = 11", "pcr = 11\npcr = 12"),
    "TOML of great depth": ("[layers]", "x = " + "[" * 5000 + "]" * 5000 + "\n[layers]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused(write: Callable[[str], Path], case: str) -> None:
    """One typed error for every slip of the pen; none of them falls back to a default."""
    old, new = REFUSED[case]
    assert GOOD.count(old) == 1, "the case changes the configuration"
    with pytest.raises(ConfigError) as caught:
        DeviceConfig.load(write(GOOD.replace(old, new)))
    assert caught.value.code == "config"


@pytest.mark.parametrize("pcr", [16, 23])
def test_a_resettable_pcr_must_be_spelled_unsafe(write: Callable[[str], Path], pcr: int) -> None:
    """Any program can reset it; whoever wants it says so."""
    text = GOOD.replace("pcr = 11", f"pcr = {pcr}\nunsafe_resettable_pcr = true")
    assert DeviceConfig.load(write(text)).tpm.pcr == pcr


@pytest.mark.parametrize("pcr", range(8, 16))
def test_the_application_pcrs_are_8_to_15(write: Callable[[str], Path], pcr: int) -> None:
    """None of them can be reset by a program."""
    assert DeviceConfig.load(write(GOOD.replace("pcr = 11", f"pcr = {pcr}"))).tpm.pcr == pcr


def test_a_file_that_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    """Missing, a directory, not text, too long."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "noise").write_bytes(b"\xff\xfe\0")
    with (tmp_path / "long").open("wb") as file:
        file.truncate(CONFIG_LIMIT + 1)
    for name in ("missing", "directory", "noise", "long", "nul\0"):
        with pytest.raises(ConfigError) as caught:
            DeviceConfig.load(tmp_path / name)
        assert caught.value.code == "config"


# --- what it points to -----------------------------------------------------------

RELEASE = Release(
    name="1.0",
    layers=tuple(
        LayerReference(name=name, version="1", digest=bytes(32)) for name in ("kernel", "frontend")
    ),
)
TRUST = TrustAnchor(url="https://backend", tls_ca="CA", policy_key="P", metadata_key="M")


@pytest.fixture
def config(write: Callable[[str], Path], tmp_path: Path) -> DeviceConfig:
    """A configuration whose files are there."""
    (tmp_path / "trust.json").write_bytes(msgspec.json.encode(TRUST))
    (tmp_path / "release.json").write_bytes(msgspec.json.encode(RELEASE))
    return DeviceConfig.load(write(GOOD.replace("/etc/hwtrust/", "")))


def test_the_files_that_it_names_are_read(config: DeviceConfig) -> None:
    """Trust file and release."""
    assert config.read_trust() == TRUST
    assert config.read_release() == RELEASE


def test_a_layer_without_a_place_is_refused(config: DeviceConfig) -> None:
    """A release that the device cannot measure in full is not half measured."""
    fewer = msgspec.structs.replace(config, layers={"kernel": "/opt/app/kernel"})
    with pytest.raises(ConfigError) as caught:
        fewer.read_release()
    assert "frontend" in caught.value.message


FILES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "another message": b'{"url": 1}',
    "a release without layers": b'{"name": "1", "layers": []}',
    "no UTF-8": b'{"name": "\xff", "layers": []}',
    "great depth": b"[" * 500_000,
    "an unknown field": msgspec.json.encode(RELEASE)[:-1] + b', "more": 1}',
}


@pytest.mark.parametrize("case", FILES)
def test_a_release_that_is_none_is_refused(config: DeviceConfig, tmp_path: Path, case: str) -> None:
    """The error names the file."""
    (tmp_path / "release.json").write_bytes(FILES[case])
    with pytest.raises(ConfigError) as caught:
        config.read_release()
    assert caught.value.data["path"] == str(tmp_path / "release.json")


@pytest.mark.parametrize("case", ["empty", "no JSON", "another message", "no UTF-8", "great depth"])
def test_a_trust_file_that_is_none_is_refused(
    config: DeviceConfig, tmp_path: Path, case: str
) -> None:
    """Nothing is trusted by default."""
    (tmp_path / "trust.json").write_bytes(FILES[case])
    with pytest.raises(ConfigError) as caught:
        config.read_trust()
    assert caught.value.data["path"] == str(tmp_path / "trust.json")


def test_files_that_are_not_there_are_configuration_errors(config: DeviceConfig) -> None:
    """Missing files, and names that no file has."""
    for name in ("/nonexistent/file", "a\0b"):
        lost = msgspec.structs.replace(config, trust=name, release=name)
        for read in (lost.read_trust, lost.read_release):
            with pytest.raises(ConfigError) as caught:
                read()
            assert caught.value.code == "config"
