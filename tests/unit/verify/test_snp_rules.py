"""SEV-SNP rules: what is not accepted is found, all of it, and what is not said refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hwtrust.verify.enclaves.snp import SnpClaims, verify_snp
from hwtrust.verify.enclaves.snp_rules import FINDINGS, SnpRules, TcbFloor, appraise_snp
from hwtrust.wire.enclaves.snp import HOST, Firmware, Product, SigningKey, Tcb
from hwtrust.wire.messages import Severity
from simulators.snp_signer import (
    AUTHOR_KEY,
    CSP,
    HOST_DATA,
    ID_KEY,
    MEASUREMENT,
    NOW,
    POLICY,
    REPORT_DATA,
    TCBS,
    Chip,
    trust,
)

MILAN, TURIN = Chip(Product.MILAN), Chip(Product.TURIN)


def floor_of(product: Product) -> TcbFloor:
    """The very TCB version of the simulated chips."""
    tcb = TCBS[product]
    fmc = tcb.fmc if product is Product.TURIN else msgspec.UNSET
    return TcbFloor(
        bootloader=tcb.bootloader, tee=tcb.tee, snp=tcb.snp, microcode=tcb.microcode, fmc=fmc
    )


GOOD: dict[str, Any] = {
    "products": (Product.MILAN, Product.TURIN),
    "signing_keys": ("vcek", "vlek"),
    "csp_ids": (CSP,),
    "measurements": ("00" * 48, MEASUREMENT.hex()),
    "vmpl_maximum": 1,
    "policy_allowed": ("smt",),
    "policy_required": (),
    "abi_minimum": "1.55",
    "host_data": (HOST_DATA.hex(),),
    "id_key_digests": (ID_KEY.hex(),),
    "author_key_digests": (AUTHOR_KEY.hex(),),
    "guest_svn_minimum": 3,
    "tcb": {product: floor_of(product) for product in (Product.MILAN, Product.TURIN)},
    "firmware_minimum": "1.55.40",
    "platform_required": ("ecc_en", "alias_check_complete"),
    "platform_forbidden": ("tsme_en",),
}
RULES = SnpRules(**GOOD)


def claims(
    chip: Chip = MILAN,
    kind: SigningKey = SigningKey.VCEK,
    **changes: Any,  # noqa: ANN401
) -> SnpClaims:
    """What a chip vouches for; `changes` as in `Chip.report`."""
    return verify_snp(
        chip.report(kind, **changes),
        certificates=chip.certificates(kind),
        report_data=REPORT_DATA,
        now=NOW,
        trust=trust(),
    )


def codes(found: SnpClaims, **changes: Any) -> list[str]:  # noqa: ANN401
    """The codes of all findings, under the good rules with those changes."""
    rules = msgspec.structs.replace(RULES, **changes)
    return [finding.code for finding in appraise_snp(found, rules=rules)]


@pytest.mark.parametrize("kind", [SigningKey.VCEK, SigningKey.VLEK])
@pytest.mark.parametrize("chip", [MILAN, TURIN], ids=lambda chip: str(chip.product))
def test_a_good_guest_has_no_findings(chip: Chip, kind: SigningKey) -> None:
    """Every value may be exactly at its bound."""
    assert codes(claims(chip, kind)) == []


def test_what_the_rules_do_not_say_refuses() -> None:
    """Empty rules find every field that is missing, and each by its name."""
    found = appraise_snp(claims(TURIN, SigningKey.VLEK), rules=SnpRules())
    assert {finding.code for finding in found} == {"snp:absent"}
    assert {finding.message.rpartition(": ")[2] for finding in found} == set(GOOD)
    assert {finding.severity for finding in found} == {Severity.FAIL}


@pytest.mark.parametrize("field", GOOD)
def test_each_absent_field_is_a_finding(field: str) -> None:
    """It stands for no value that would be accepted."""
    found = claims(kind=SigningKey.VLEK)
    assert codes(found, **{field: msgspec.UNSET}) == ["snp:absent"]


def test_providers_are_asked_for_under_a_vlek_only() -> None:
    """A VCEK is of no provider."""
    assert codes(claims(), csp_ids=msgspec.UNSET) == []


def level(**changes: int) -> bytes:
    """Milan's TCB version with other levels."""
    return msgspec.structs.replace(TCBS[Product.MILAN], **changes).encode(Product.MILAN)


REPORTS: dict[str, tuple[dict[str, Any], str]] = {
    "debugging": ({"policy": POLICY | 1 << 19}, "snp:debug"),
    "a migration agent": ({"policy": POLICY | 1 << 18}, "snp:policy"),
    "CXL": ({"policy": POLICY | 1 << 21}, "snp:policy"),
    "an older ABI": ({"policy": POLICY - 1}, "snp:abi"),
    "an older major ABI": ({"policy": 0x3_0000 | 0xFF}, "snp:abi"),
    "a higher VMPL": ({"vmpl": 2}, "snp:vmpl"),
    "a report that the host asked for": ({"vmpl": HOST}, "snp:vmpl"),
    "another measurement": ({"measurement": bytes(47) + b"\x01"}, "snp:measurement"),
    "other host data": ({"host_data": bytes(32)}, "snp:host-data"),
    "no ID block": ({"id_key_digest": bytes(48)}, "snp:id-key"),
    "no author key": ({"author_key_digest": bytes(48)}, "snp:author-key"),
    "an older guest": ({"guest_svn": 2}, "snp:guest-svn"),
    "older running microcode": ({"current_tcb": level(microcode=218)}, "snp:tcb-current"),
    "a running TCB newer in all but one": (
        {"current_tcb": level(bootloader=9, tee=9, snp=23, microcode=255)},
        "snp:tcb-current",
    ),
    "an older committed TCB": ({"committed_tcb": level(snp=1)}, "snp:tcb-committed"),
    "a launch on an older TCB": ({"launch_tcb": level(bootloader=3)}, "snp:tcb-launch"),
    "older firmware": ({"current_firmware": Firmware(1, 55, 39)}, "snp:firmware"),
    "firmware of an older minor version": (
        {"current_firmware": Firmware(1, 54, 255)},
        "snp:firmware",
    ),
    "older committed firmware": (
        {"committed_firmware": Firmware(0, 99, 99)},
        "snp:firmware-committed",
    ),
    "a platform with what is forbidden": ({"platform_info": 0b10_0111}, "snp:platform"),
    "a platform without what is required": ({"platform_info": 0b10_0001}, "snp:platform-missing"),
    "a platform whose memory aliases": ({"platform_info": 0b00_0101}, "snp:platform-missing"),
}


@pytest.mark.parametrize(("changes", "code"), REPORTS.values(), ids=REPORTS)
def test_a_state_that_is_not_accepted_is_found(changes: dict[str, Any], code: str) -> None:
    """Well signed, and found by the one code that names it."""
    assert codes(claims(**changes)) == [code]
    assert FINDINGS[code][0] is Severity.FAIL


ACCEPTED: dict[str, tuple[dict[str, Any], str]] = {
    "another product": ({"products": (Product.GENOA, Product.TURIN)}, "snp:product"),
    "another kind of key": ({"signing_keys": ("vlek",)}, "snp:signing-key"),
    "no SMT": ({"policy_allowed": ()}, "snp:policy"),
    "one socket": ({"policy_required": ("single_socket",)}, "snp:policy-missing"),
    "no measurement at all": ({"measurements": ()}, "snp:measurement"),
    "no SMT on the platform": ({"platform_forbidden": ("smt_en",)}, "snp:platform"),
    "hidden ciphertext": (
        {"platform_required": ("ciphertext_hiding_dram_en",)},
        "snp:platform-missing",
    ),
}


@pytest.mark.parametrize(("rules", "code"), ACCEPTED.values(), ids=ACCEPTED)
def test_rules_that_accept_something_else_find_it(rules: dict[str, Any], code: str) -> None:
    """The same guest is not accepted then."""
    assert codes(claims(), **rules) == [code]


def test_a_vlek_of_another_provider_is_found() -> None:
    """Who holds the VLEK can sign for any of its chips."""
    assert codes(claims(kind=SigningKey.VLEK), csp_ids=("other.example",)) == ["snp:csp"]


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode", "fmc"])
def test_the_reported_tcb_is_held_to_each_floor(component: str) -> None:
    """Component by component, and only the one that is lower is told."""
    floor = msgspec.structs.replace(
        floor_of(Product.TURIN), **{component: getattr(TCBS[Product.TURIN], component) + 1}
    )
    rules = msgspec.structs.replace(RULES, tcb={Product.TURIN: floor})
    found = appraise_snp(claims(TURIN), rules=rules)
    names = ["snp:tcb", "snp:tcb-current", "snp:tcb-committed", "snp:tcb-launch"]
    assert [finding.code for finding in found] == names
    assert all(component in finding.message for finding in found)


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode", "fmc"])
def test_a_floor_with_a_component_left_out_is_absent(component: str) -> None:
    """It does not mean zero."""
    floor = msgspec.structs.replace(floor_of(Product.TURIN), **{component: msgspec.UNSET})
    assert codes(claims(TURIN), tcb={Product.TURIN: floor}) == ["snp:absent"]


def test_a_product_without_a_floor_is_absent() -> None:
    """Another product's floor does not hold for it."""
    assert codes(claims(), tcb={Product.TURIN: floor_of(Product.TURIN)}) == ["snp:absent"]


UNSAFE: dict[str, tuple[dict[str, Any], str]] = {
    "unsafe_allow_debug": ({"policy": POLICY | 1 << 19}, "snp:debug"),
    "unsafe_any_host_data": ({"host_data": bytes(32)}, "snp:host-data"),
    "unsafe_any_id_key": ({"id_key_digest": bytes(48)}, "snp:id-key"),
    "unsafe_any_author_key": ({"author_key_digest": bytes(48)}, "snp:author-key"),
    "unsafe_any_launch_tcb": ({"launch_tcb": level(snp=1)}, "snp:tcb-launch"),
}


@pytest.mark.parametrize(("field", "case"), UNSAFE.items(), ids=UNSAFE)
def test_what_is_spelled_out_as_unsafe_is_not_looked_at(
    field: str, case: tuple[dict[str, Any], str]
) -> None:
    """And nothing else is let pass by it."""
    changes, code = case
    assert codes(claims(**changes)) == [code]
    assert codes(claims(**changes), **{field: True}) == []
    assert codes(claims(**changes, guest_svn=0), **{field: True}) == ["snp:guest-svn"]


def test_every_finding_is_told() -> None:
    """Not the first alone."""
    found = claims(policy=POLICY | 1 << 19, measurement=bytes(48), vmpl=3, guest_svn=0)
    expected = {"snp:debug", "snp:measurement", "snp:vmpl", "snp:guest-svn"}
    assert set(codes(found, measurements=())) == expected


def test_a_platform_that_says_something_unknown_is_told() -> None:
    """Newer firmware may: an administrator should look."""
    (finding,) = appraise_snp(claims(platform_info=0b10_0101 | 1 << 40), rules=RULES)
    assert (finding.code, finding.severity) == ("snp:platform-unknown", Severity.ALERT)


def test_rules_are_read_from_a_policy_document() -> None:
    """As a table of strings, numbers and lists."""
    table = msgspec.to_builtins(RULES)
    assert msgspec.convert(table, SnpRules) == RULES
    wrongs: list[dict[str, Any]] = [
        {"measurement": ["00" * 48]},
        {"measurements": ["00" * 47]},
        {"measurements": ["AB" * 48]},
        {"vmpl_maximum": 4},
        {"abi_minimum": "1"},
        {"tcb": {"Rome": {}}},
        {"tcb": {"Milan": {"ucode": 1}}},
        {"policy_allowed": ["debug"]},
    ]
    for wrong in wrongs:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, SnpRules)


def test_tcb_levels_say_what_they_are() -> None:
    """In the words of the findings."""
    assert str(Tcb(bootloader=1, tee=2, snp=3, microcode=4)).startswith("fmc=0 bootloader=1")
