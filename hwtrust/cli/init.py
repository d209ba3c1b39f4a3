"""`hwtrust init`: look at the TPM, choose a PCR, write the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from hwtrust.cli.output import echo_json, json_option
from hwtrust.device.config import APPLICATION_PCRS, DeviceConfig
from hwtrust.errors import ConfigError, TpmBankError, TpmPcrConflictError
from hwtrust.files import write_atomic
from hwtrust.tpm import commands
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.discover import identify, open_tpm, require_no_lockout
from hwtrust.tpm.provision import active_banks
from hwtrust.wire.algorithms import Alg, alg_name
from hwtrust.wire.cel import RESET_VALUE
from hwtrust.wire.structures import PcrSelection

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--trust", type=EXISTING, required=True, help="The backend's trust.json.")
@click.option("--release", type=EXISTING, required=True, help="The release's layers, JSON.")
@click.option(
    "--layer", "layers", multiple=True, metavar="NAME=PATH", help="Where a layer lies; repeat."
)
@click.option("--state", type=click.Path(path_type=Path), help="State directory. Default: state.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("hwtrust.toml"),
    show_default=True,
    help="The configuration to write.",
)
@click.option("--tcti", default="", help="TCTI string. Default: discover the TPM at each start.")
@click.option("--pcr", type=int, help="Application PCR. Default: the first free one of 8 to 15.")
@click.option("--platform-pcrs", default="", metavar="N,N…", help="Platform PCRs to include.")
@click.option(
    "--tls-key", type=click.Choice(["auto", "tpm", "attested"]), default="auto", show_default=True
)
@click.option("--force", is_flag=True, help="Replace an existing configuration.")
@json_option
def init(
    *,
    trust: Path,
    release: Path,
    layers: tuple[str, ...],
    state: Path | None,
    output: Path,
    tcti: str,
    pcr: int | None,
    platform_pcrs: str,
    tls_key: str,
    force: bool,
    as_json: bool,
) -> None:
    """Choose a free PCR and write the device's configuration.

    Nothing in the TPM is changed.

    \b
    Example:
      hwtrust init --trust trust.json --release release.json \\
          --layer kernel=/opt/app/kernel --layer frontend=/opt/app/www
    """
    if output.exists() and not force:
        raise ConfigError(f"{output} exists already", hint="give --force to replace it")
    places = _places(layers)
    with open_tpm(tcti or None) as tpm:
        require_no_lockout(identify(tpm))
        banks = active_banks(tpm)
        chosen = pick_pcr(tpm, wanted=pcr)
        _require_extended_bank(tpm)
    text = _toml(
        {
            "state_dir": str((state or Path("state")).absolute()),
            "trust": str(trust.absolute()),
            "release": str(release.absolute()),
            "tls_key": tls_key,
        },
        {
            "tcti": tcti,
            "pcr": chosen,
            "platform_pcrs": _numbers(platform_pcrs),
            "banks": [alg_name(bank) for bank in banks],
        },
        {name: str(Path(place).absolute()) for name, place in places.items()},
    )
    config = msgspec.toml.decode(text, type=DeviceConfig)
    config.check()
    config.read_trust()
    config.read_release()
    write_atomic(output, text.encode(), mode=0o644)
    if as_json:
        echo_json({"config": str(output), "pcr": chosen, "banks": [alg_name(b) for b in banks]})
        return
    click.echo(f"wrote {output}: PCR {chosen}, banks {', '.join(alg_name(b) for b in banks)}")
    click.echo("next: hwtrust enrol --token-file FILE")


def pick_pcr(tpm: Tpm, *, wanted: int | None) -> int:
    """The wanted PCR, or the first of 8 to 15 that still reads its reset value.

    Raises:
        TpmPcrConflictError: it has been extended, or all have.
    """
    indices = (wanted,) if wanted is not None else tuple(APPLICATION_PCRS)
    if wanted is not None and wanted not in range(24):
        raise ConfigError(f"there is no PCR {wanted}", pcr=wanted)
    values = commands.pcr_read(tpm, PcrSelection(((Alg.SHA256, indices),)))[Alg.SHA256]
    for index in indices:
        if values[index] == RESET_VALUE:
            return index
    which = f"PCR {wanted}" if wanted is not None else "every PCR of 8 to 15"
    raise TpmPcrConflictError(f"{which} is in use: something has extended it", pcr=indices[0])


def _require_extended_bank(tpm: Tpm) -> None:
    """Refuse a SHA-256 bank that firmware leaves alone while it extends the SHA-1 bank."""
    firmware = tuple(range(8))
    try:
        values = commands.pcr_read(
            tpm, PcrSelection(((Alg.SHA1, firmware), (Alg.SHA256, firmware)))
        )
    except TpmBankError:
        return
    used = any(any(value) for value in values[Alg.SHA1].values())
    if used and not any(any(value) for value in values[Alg.SHA256].values()):
        raise TpmBankError("firmware extends the SHA-1 bank and not the SHA-256 bank")


def _places(layers: tuple[str, ...]) -> dict[str, str]:
    places: dict[str, str] = {}
    for layer in layers:
        name, separator, place = layer.partition("=")
        if not separator or not name or not place:
            raise click.BadParameter(f"{layer!r} is not NAME=PATH", param_hint="--layer")
        places[name] = place
    return places


def _numbers(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",") if part})
    except ValueError as error:
        raise click.BadParameter("numbers, separated by commas") from error


def _toml(top: dict[str, object], tpm: dict[str, object], layers: dict[str, str]) -> str:
    def lines(table: dict[str, object]) -> list[str]:
        # A JSON string, number, boolean or list of those is TOML too.
        return [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()]

    return "\n".join(
        ["# A device of hwtrust; see hwtrust init --help.", *lines(top), "", "[tpm]", *lines(tpm)]
        + ["", "[layers]", *lines(dict(layers)), ""]
    )


