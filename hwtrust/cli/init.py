"""`hwtrust init`: look at the TPM, choose a PCR, write the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from hwtrust.cli.output import echo_json, json_option
from hwtrust.errors import ConfigError
from hwtrust.files import write_atomic
from hwtrust.wire.algorithms import alg_name

if TYPE_CHECKING:
    from collections.abc import Mapping

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--trust", type=EXISTING, required=True, help="The backend's trust.json.")
@click.option("--release", type=EXISTING, required=True, help="The release's layers, JSON.")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME=PATH",
    help="Where a layer of the release lies; repeat for each.",
)
@click.option(
    "--slots",
    type=click.Path(path_type=Path),
    help="Directory for two slots, to take updates: release and layers are copied there.",
)
@click.option("--state", type=click.Path(path_type=Path), help="State directory. Default: state.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("hwtrust.toml"),
    show_default=True,
    help="The configuration to write.",
)
@click.option(
    "--tcti",
    default="",
    help="How to reach the TPM, such as device:/dev/tpmrm0. Default: discover it at each start.",
)
@click.option(
    "--pcr", type=int, help="PCR to measure layers into. Default: the first free one of 8 to 15."
)
@click.option(
    "--platform-pcrs",
    default="",
    metavar="N,N…",
    help="PCRs of the firmware that must keep their values too, such as 0,7.",
)
@click.option(
    "--tls-key",
    type=click.Choice(["auto", "tpm", "attested"]),
    default="auto",
    show_default=True,
    help="Where the key of the connection lives: in the TPM, or in memory and attested.",
)
@click.option("--force", is_flag=True, help="Replace an existing configuration.")
@json_option
def init(
    *,
    trust: Path,
    release: Path,
    layers: tuple[str, ...],
    slots: Path | None,
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

    A PCR is a register of the TPM that measurements are added to; this device
    needs one that no other program uses. Nothing in the TPM is changed.

    \b
    Example:
      hwtrust init --trust trust.json --release release.json \\
          --layer kernel=/opt/app/kernel --layer frontend=/opt/app/www
    """
    from hwtrust.device.config import DeviceConfig  # noqa: PLC0415 - the TPM stack loads slowly
    from hwtrust.device.survey import survey  # noqa: PLC0415 - the TPM stack loads slowly

    if output.exists() and not force:
        raise ConfigError(f"{output} exists already", hint="give --force to replace it")
    places, platform = _places(layers), _numbers(platform_pcrs)
    places = {name: str(Path(place).absolute()) for name, place in places.items()}
    found = survey(tcti or None, pcr=pcr)
    banks = [alg_name(bank) for bank in found.banks]
    top = {
        "state_dir": str((state or Path("state")).absolute()),
        "trust": str(trust.absolute()),
        "release": str(release.absolute()),
        "tls_key": tls_key,
    }
    tpm = {"tcti": tcti, "pcr": found.pcr, "platform_pcrs": platform, "banks": banks}
    text = _toml(top, {"tpm": tpm, "layers": places})
    config = msgspec.toml.decode(text, type=DeviceConfig)
    config.check()
    config.read_trust()
    config.read_release()
    if slots is not None:
        current = _create(slots.absolute(), places, release)
        top["release"] = str(current / "release.json")
        places = {name: str(current / name) for name in places}
        updates = {"slots": str(slots.absolute())}
        text = _toml(top, {"tpm": tpm, "layers": places, "updates": updates})
    write_atomic(output, text.encode(), mode=0o644)
    if as_json:
        echo_json({"config": str(output), "pcr": found.pcr, "banks": banks})
        return
    click.echo(f"wrote {output}: PCR {found.pcr}, banks {', '.join(banks)}")
    click.echo("next: hwtrust enrol --token-file FILE")


def _places(layers: tuple[str, ...]) -> dict[str, str]:
    places: dict[str, str] = {}
    for layer in layers:
        name, separator, place = layer.partition("=")
        if not separator or not name or not place:
            raise click.BadParameter(f"{layer!r} is not NAME=PATH", param_hint="--layer")
        if name in places:
            raise click.BadParameter(f"{name!r} is given twice", param_hint="--layer")
        places[name] = place
    return places


def _numbers(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",") if part})
    except ValueError as error:
        message = f"{text!r} is no list of numbers with commas between them"
        raise click.BadParameter(message, param_hint="--platform-pcrs") from error


def _create(slots: Path, places: dict[str, str], release: Path) -> Path:
    """Copy release and layers into the first slot; gives what leads to the slot in use."""
    from hwtrust.updates.slots import CURRENT, Slots  # noqa: PLC0415 - few devices need it here

    Slots(slots).create({name: Path(place) for name, place in places.items()}, release)
    return slots / CURRENT


def _toml(top: Mapping[str, object], tables: Mapping[str, Mapping[str, object]]) -> str:
    def lines(table: Mapping[str, object]) -> list[str]:
        return [f"{_value(key)} = {_value(value)}" for key, value in table.items()]

    comment = "# A device of hwtrust; see hwtrust init --help."
    parts = [[comment, *lines(top)]]
    parts += [[f"[{name}]", *lines(table)] for name, table in tables.items()]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _value(value: object) -> str:
    # A JSON string, number, boolean or list of those is TOML too, but for surrogate
    # pairs, which TOML does not have, and DEL, which it wants escaped.
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(f"a path or name is not UTF-8: {text!r}")
    return text
