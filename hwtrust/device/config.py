"""A device's configuration: one TOML file, written by `hwtrust init`, read as is.

    state_dir = "state"               # relative to this file
    trust = "trust.json"              # what ships of the backend: CA and public keys
    release = "release.json"          # the layers as they should be
    tls_key = "auto"                  # tpm, attested, or the best that works here
    on_failure = "locked"             # after a failed load, until the backend speaks; or limited

    [tpm]
    tcti = "device:/dev/tpmrm0"       # absent: discover
    pcr = 11                          # the application PCR, chosen by init
    platform_pcrs = [0, 7]            # platform PCRs in the selection
    quoted_pcrs = [8, 9, 10]          # shown besides, for the logs that explain them
    banks = ["sha1", "sha256"]        # what the TPM has allocated

    [layers]                          # where each layer of the release lies
    kernel = "/opt/app/kernel"

    [updates]                         # absent: this device takes none
    slots = "slots"                   # release and layers must lie in slots/current then
    restart = ["kernel"]              # layers that take a restart to be replaced
    automatic = true                  # the agent brings in what the backend orders

    [agent]                           # of the daemon: hwtrust.agent.config

Every option is in docs/device-configuration.md.

Rules:
1. Unknown keys are refused: a misspelt option is not a default.
2. Handles lie in the ranges that the TCG's registry gives to owners, so that no
   slip of the pen removes what a vendor has put into the TPM.
3. PCRs 16 and 23 can be reset by any program and are refused, unless
   `unsafe_resettable_pcr = true` spells it out.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hwtrust.errors import ConfigError, StateError, UnsupportedError
from hwtrust.files import read_limited
from hwtrust.tpm.handles import Handles
from hwtrust.wire.algorithms import Alg, alg_from_name
from hwtrust.wire.messages import Release, TrustAnchor

T = TypeVar("T", bound=msgspec.Struct)

CONFIG_LIMIT = 1024 * 1024
APPLICATION_PCRS = range(8, 16)
BOOT_LOADER_PCR = 11
"""A platform PCR where it is not the application's."""
RESETTABLE_PCRS = (16, 23)
OWNER_OBJECTS = range(0x81000000, 0x81800000)
OWNER_INDICES = range(0x01800000, 0x01C00000)


class TlsKeyChoice(enum.StrEnum):
    """Which TLS key a device uses."""

    AUTO = "auto"
    TPM = "tpm"
    ATTESTED = "attested"


class OnFailure(enum.StrEnum):
    """What a device is after a load that failed, until its backend says what it may do.

    The key store is locked in any case; `limited` lets the host application go on
    without it.
    """

    LOCKED = "locked"
    LIMITED = "limited"


_DEFAULT = Handles()


class HandleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TPM handles, where the defaults are taken."""

    ak: int = _DEFAULT.ak
    storage_key: int = _DEFAULT.storage_key
    counter: int = _DEFAULT.counter


class TpmConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the TPM is used."""

    pcr: int
    banks: tuple[str, ...]
    tcti: str = ""
    platform_pcrs: tuple[int, ...] = ()
    quoted_pcrs: tuple[int, ...] = ()
    firmware_log: str = ""
    ima_log: str = ""
    unsafe_resettable_pcr: bool = False
    clock_threshold_s: int = 60
    handles: HandleConfig = HandleConfig()


class UpdateConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How releases come. A new one is given up unless it is confirmed in `confirm_within_s`.

    `metadata_url` and `targets_url` (https://host/path/) are those of a static host,
    believed under the system's CAs; by default the backend serves both.
    """

    slots: str
    restart: tuple[str, ...] = ()
    automatic: bool = True
    confirm_within_s: int = 600
    metadata_url: str = ""
    targets_url: str = ""


class DeviceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A device's configuration. Paths are absolute once loaded."""

    state_dir: str
    trust: str
    release: str
    tpm: TpmConfig
    layers: dict[str, str]
    tls_key: TlsKeyChoice = TlsKeyChoice.AUTO
    on_failure: OnFailure = OnFailure.LOCKED
    updates: UpdateConfig | None = None
    agent: dict[str, Any] = {}
    """Of `hwtrust agent`, which reads it (`hwtrust.agent.config`)."""

    @classmethod
    def load(cls, path: str | Path) -> DeviceConfig:
        """Read and check a configuration file.

        Raises:
            ConfigError: unreadable, or not a configuration; says where.
        """
        path = Path(path).absolute()
        try:
            config = msgspec.toml.decode(_read(path), type=cls)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: {error}", path=str(path)) from error
        config.check()
        here = path.parent
        return msgspec.structs.replace(
            config,
            state_dir=str(here / config.state_dir),
            trust=str(here / config.trust),
            release=str(here / config.release),
            tpm=msgspec.structs.replace(
                config.tpm,
                firmware_log=_placed(here, config.tpm.firmware_log),
                ima_log=_placed(here, config.tpm.ima_log),
            ),
            layers={name: str(here / place) for name, place in config.layers.items()},
            updates=config.updates
            and msgspec.structs.replace(config.updates, slots=str(here / config.updates.slots)),
        )

    def check(self) -> None:
        """Refuse what cannot work, or cannot be meant.

        Raises:
            ConfigError: says which option and why.
        """
        pcr, unsafe = self.tpm.pcr, self.tpm.unsafe_resettable_pcr
        if pcr not in APPLICATION_PCRS and not (pcr in RESETTABLE_PCRS and unsafe):
            message = f"tpm.pcr is {pcr}: it must be one of 8 to 15, which no program can reset"
            raise ConfigError(message, pcr=pcr)
        if not set(self.tpm.platform_pcrs) <= {*range(8), 11} - {pcr}:
            raise ConfigError("tpm.platform_pcrs may hold 0 to 7 and 11, not the application PCR")
        if not set(self.tpm.quoted_pcrs) <= set(APPLICATION_PCRS) - {pcr, BOOT_LOADER_PCR}:
            message = "tpm.quoted_pcrs may hold 8 to 15, but not 11 and not the application PCR"
            raise ConfigError(message)
        if self.tpm.clock_threshold_s < 0:
            raise ConfigError("tpm.clock_threshold_s is a number of seconds, 0 or more")
        self._check_handles()
        self._check_updates()
        self.banks()

    def _check_updates(self) -> None:
        updates = self.updates
        if updates is None:
            return
        if updates.confirm_within_s <= 0:
            raise ConfigError("updates.confirm_within_s is a number of seconds, above 0")
        if bool(updates.metadata_url) != bool(updates.targets_url):
            raise ConfigError("updates.metadata_url and updates.targets_url are given together")
        unknown = [name for name in updates.restart if name not in self.layers]
        if unknown:
            raise ConfigError(f"updates.restart names {unknown[0]!r}, which is no layer")

    def _check_handles(self) -> None:
        handles = self.tpm.handles
        if handles.ak not in OWNER_OBJECTS or handles.storage_key not in OWNER_OBJECTS:
            message = "tpm.handles: ak and storage_key are persistent handles, 0x81000000 to "
            raise ConfigError(message + "0x817FFFFF")
        if handles.ak == handles.storage_key:
            raise ConfigError("tpm.handles: ak and storage_key are two handles")
        if handles.counter not in OWNER_INDICES:
            raise ConfigError("tpm.handles: counter is an NV index, 0x01800000 to 0x01BFFFFF")

    def banks(self) -> tuple[Alg, ...]:
        """The TPM's banks.

        Raises:
            ConfigError: an unknown name, or SHA-256 is missing.
        """
        try:
            banks = tuple(alg_from_name(name) for name in self.tpm.banks)
        except UnsupportedError as error:
            raise ConfigError(f"tpm.banks: {error}") from error
        if Alg.SHA256 not in banks:
            raise ConfigError("tpm.banks must hold sha256")
        return banks

    def handles(self) -> Handles:
        """The TPM handles."""
        configured = self.tpm.handles
        return Handles(configured.ak, configured.storage_key, configured.counter)

    def read_trust(self) -> TrustAnchor:
        """The trust file."""
        return _decode(Path(self.trust), TrustAnchor)

    def read_release(self) -> Release:
        """The release, each of whose layers has a place.

        Raises:
            ConfigError: a layer of the release has no place in `layers`.
        """
        release = _decode(Path(self.release), Release)
        missing = [layer.name for layer in release.layers if layer.name not in self.layers]
        if missing:
            raise ConfigError(f"layers: no path for layer {missing[0]!r} of {release.name}")
        return release


def _placed(here: Path, path: str) -> str:
    return str(here / path) if path else ""


def _decode(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(_read(path), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}", path=str(path)) from error


def _read(path: Path) -> bytes:
    try:
        return read_limited(path, limit=CONFIG_LIMIT)
    except StateError as error:
        raise ConfigError(error.message, path=str(path)) from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", path=str(path)) from error
