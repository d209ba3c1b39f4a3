"""Every PCR: what it covers, who extends it, and what hwtrust may do with it.

What hwtrust may do is asked of the check that a device's configuration passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.device.config import DeviceConfig, TpmConfig
from hwtrust.errors import ConfigError
from hwtrust_docs.markdown import code, plain, table

if TYPE_CHECKING:
    from collections.abc import Mapping

PCRS = range(24)
_ANOTHER = 15
"""The application PCR while it is asked what else another one may be."""


def page(words: Mapping[str, str]) -> list[str]:
    """A row for each PCR; what it covers and who extends it are the page's own words."""
    rows = []
    for pcr in PCRS:
        covers, _, who = words[str(pcr)].partition("; by ")
        rows.append((str(pcr), plain(covers), plain(who), ", ".join(uses(pcr)) or "nothing"))
    return table(("PCR", "covers", "extended by", "for hwtrust"), rows)


def uses(pcr: int) -> list[str]:
    """What a device's configuration may name the PCR as."""
    other = _ANOTHER if pcr != _ANOTHER else _ANOTHER - 1
    asked = {
        code("tpm.pcr"): TpmConfig(pcr=pcr, banks=("sha256",)),
        f"{code('tpm.pcr')} where `unsafe_resettable_pcr` is set": TpmConfig(
            pcr=pcr, banks=("sha256",), unsafe_resettable_pcr=True
        ),
        code("tpm.platform_pcrs"): TpmConfig(pcr=other, banks=("sha256",), platform_pcrs=(pcr,)),
        code("tpm.quoted_pcrs"): TpmConfig(pcr=other, banks=("sha256",), quoted_pcrs=(pcr,)),
    }
    found = [name for name, config in asked.items() if _may_be(config)]
    return found[:1] + found[2:] if len(found) > 1 and found[0] == code("tpm.pcr") else found


def _may_be(tpm: TpmConfig) -> bool:
    try:
        DeviceConfig(state_dir="s", trust="t", release="r", tpm=tpm, layers={}).check()
    except ConfigError:
        return False
    return True
