"""Is the state of this machine with a vTPM in its TEE acceptable?

    AzureClaims + AzureRules ── appraise_azure ──▶ every finding, the TEE's among them

Pure, and it never raises for a bad state. What the rules do not say is not accepted;
the TEE is held against the rules of its kind, which have to be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hwtrust.verify.enclaves.snp import SnpClaims
from hwtrust.verify.enclaves.snp_rules import SnpRules, appraise_snp
from hwtrust.verify.enclaves.tdx_rules import TdxRules, appraise_tdx
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.messages import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.verify.enclaves.azure import AzureClaims

PcrName = Annotated[str, Meta(pattern="^(?:[0-9]|1[0-9]|2[0-3])$")]
PcrValue = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class AzureRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted of a machine whose vTPM lives in its TEE. A field that is absent fails.

    `snp` and `tdx` are the rules of the TEE; only those of its kind are asked for.
    """

    secure_boot: bool | UnsetType = UNSET
    console_enabled: bool | UnsetType = UNSET
    """Whether there is a serial console, at which the host's owner may sit."""
    vm_unique_ids: tuple[str, ...] | UnsetType = UNSET
    """The machines that are accepted, in any case of letters."""
    unsafe_any_vm: bool = False
    """Any machine, whatever its id. Refused if absent."""
    pcrs: dict[PcrName, tuple[PcrValue, ...]] | UnsetType = UNSET
    """Accepted values of the SHA-256 bank. A PCR that is not named is not looked at."""
    snp: SnpRules | UnsetType = UNSET
    tdx: TdxRules | UnsetType = UNSET


FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "azure:absent": (Severity.FAIL, "the rules do not say what is accepted"),
        "azure:secure-boot": (Severity.FAIL, "Secure Boot is not as the rules have it"),
        "azure:console": (Severity.FAIL, "the serial console is not as the rules have it"),
        "azure:tpm": (Severity.FAIL, "the machine says that it has no vTPM"),
        "azure:vm": (Severity.FAIL, "the machine is not one of those that are accepted"),
        "azure:pcr": (Severity.FAIL, "a PCR holds a value that is not accepted"),
        "azure:pcr-missing": (Severity.FAIL, "a PCR that is named is not quoted"),
    }
)
"""What each code means, and how it weighs. The TEE's findings have codes of their own."""


def appraise(claims: AzureClaims, *, rules: AzureRules) -> tuple[Finding, ...]:
    """Every finding against `claims`; none where they are accepted."""
    return tuple(_findings(claims, rules))


appraise_azure = appraise


def _findings(claims: AzureClaims, rules: AzureRules) -> Iterator[Finding]:
    runtime = claims.runtime_data
    for code, name, expected in (
        ("azure:secure-boot", "secure-boot", rules.secure_boot),
        ("azure:console", "console-enabled", rules.console_enabled),
        ("azure:tpm", "tpm-enabled", True),
    ):
        yield from _flag(code, found=runtime.flag(name), expected=expected)
    if not rules.unsafe_any_vm:
        yield from _vm(runtime.text("vmUniqueId"), rules.vm_unique_ids)
    yield from _pcrs(claims.quote.pcrs.get(Alg.SHA256, {}), rules.pcrs)
    yield from _tee(claims, rules)


def _flag(code: str, *, found: bool | None, expected: bool | UnsetType) -> Iterator[Finding]:
    if expected is UNSET:
        yield _finding("azure:absent", f"of {code}")
    elif found is not expected:
        told = "nothing" if found is None else str(found).lower()
        yield _finding(code, f"it says {told}")


def _vm(found: str, accepted: tuple[str, ...] | UnsetType) -> Iterator[Finding]:
    if not accepted:
        yield _finding("azure:absent", "of vm_unique_ids")
    elif not found or found.lower() not in {name.lower() for name in accepted}:
        yield _finding("azure:vm", f"its id is {found[:64] or 'not told'}")


def _pcrs(
    values: Mapping[int, bytes], accepted: dict[str, tuple[str, ...]] | UnsetType
) -> Iterator[Finding]:
    if not accepted:
        yield _finding("azure:absent", "of pcrs")
        return
    for name, digests in accepted.items():
        value = values.get(int(name))
        if value is None:
            yield _finding("azure:pcr-missing", f"PCR {name}")
        elif value.hex() not in digests:
            yield _finding("azure:pcr", f"PCR {name} holds {value.hex()}")


def _tee(claims: AzureClaims, rules: AzureRules) -> Iterator[Finding]:
    if isinstance(claims.tee, SnpClaims):
        if rules.snp is UNSET:
            yield _finding("azure:absent", "of snp")
        else:
            yield from appraise_snp(claims.tee, rules=rules.snp)
    elif rules.tdx is UNSET:
        yield _finding("azure:absent", "of tdx")
    else:
        yield from appraise_tdx(claims.tee, rules=rules.tdx)


def _finding(code: str, detail: str) -> Finding:
    severity, sentence = FINDINGS[code]
    return Finding(code=code, severity=severity, message=f"{sentence}: {detail}")
