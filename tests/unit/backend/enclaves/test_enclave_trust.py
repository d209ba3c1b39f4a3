"""What enclaves are verified by: files of an administrator, each of its kind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hwtrust.errors import (
    EnclaveAuthorityConflictError,
    EnclaveAuthorityRefusedError,
    EnclaveAuthorityUnknownError,
    ForbiddenError,
)
from hwtrust.verify.enclaves.kinds_trust import EnclaveTrust
from hwtrust.wire.enclaves.snp import Product
from hwtrust_backend.admin.enclave_trust import (
    add_enclave_trust,
    drop_enclave_trust,
    list_enclave_trust,
)
from hwtrust_backend.admin.principals import Principal, Role, local_administrator
from hwtrust_backend.audit import Event
from hwtrust_backend.audit.models import AuditRecord
from hwtrust_backend.enclaves import TrustKind, enclave_trust
from simulators.backend_shell import Shell
from simulators.cca_signer import CcaSigner
from simulators.enclave_clients import CHIP, INTEL

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust_backend.app.backend import Backend

ADMINISTRATOR = local_administrator()
HEX = "ab" * 32


def pem_of(der: bytes) -> bytes:
    """A certificate as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def endorsements() -> bytes:
    """The list of one platform."""
    return msgspec.json.encode([CcaSigner().endorsement])


GOOD = {
    TrustKind.CERTIFICATES: pem_of(CHIP.authority.ask.der),
    TrustKind.REVOCATIONS: CHIP.authority.ark.revoke(7),
    TrustKind.COLLATERAL: INTEL.collateral("tdx"),
    TrustKind.ENDORSEMENTS: endorsements(),
    TrustKind.UNSAFE_ROOTS: json.dumps(
        {"snp": {"Genoa": [HEX]}, "dcap": HEX, "nitro": [HEX], "nvidia": [HEX]}
    ).encode(),
}


def trust_after(backend: Backend, kind: TrustKind, content: bytes) -> EnclaveTrust:
    """What is trusted with one more file."""
    with backend.database.transaction() as session:
        add_enclave_trust(
            session, content, kind=kind, label="x", by=ADMINISTRATOR, now=backend.clock()
        )
    with backend.database.reading() as session:
        return enclave_trust(session)


def test_at_first_the_makers_alone_are_trusted(backend: Backend) -> None:
    """Nothing has to be added for them."""
    with backend.database.reading() as session:
        assert enclave_trust(session) == EnclaveTrust()


def test_certificates_and_collateral_stand_beside_what_comes(backend: Backend) -> None:
    """They are trusted no more than that: the roots stay."""
    trust = trust_after(backend, TrustKind.CERTIFICATES, GOOD[TrustKind.CERTIFICATES])
    assert trust.certificates == (CHIP.authority.ask.der,)
    trust = trust_after(backend, TrustKind.COLLATERAL, GOOD[TrustKind.COLLATERAL])
    assert len(trust.collateral) == 1
    assert (trust.snp, trust.dcap, trust.nitro) == (
        EnclaveTrust().snp,
        EnclaveTrust().dcap,
        EnclaveTrust().nitro,
    )


def test_revocation_lists_count(backend: Backend) -> None:
    """Of AMD and of NVIDIA."""
    trust = trust_after(backend, TrustKind.REVOCATIONS, GOOD[TrustKind.REVOCATIONS])
    assert trust.snp.crls == (GOOD[TrustKind.REVOCATIONS],)
    assert len(trust.nvidia.crls) == 1


def test_unsafe_roots_stand_beside_the_makers(backend: Backend) -> None:
    """But for Intel's, in whose place another one is."""
    trust = trust_after(backend, TrustKind.UNSAFE_ROOTS, GOOD[TrustKind.UNSAFE_ROOTS])
    makers = EnclaveTrust()
    assert trust.snp.roots[Product.GENOA] == makers.snp.roots[Product.GENOA] | {HEX}
    assert trust.snp.roots[Product.MILAN] == makers.snp.roots[Product.MILAN]
    assert trust.nitro.roots == makers.nitro.roots | {HEX}
    assert trust.nvidia.roots == makers.nvidia.roots | {HEX}
    assert trust.dcap.root.hex() == HEX


BAD = {
    "no certificate": (TrustKind.CERTIFICATES, b"nothing"),
    "no revocation list": (TrustKind.REVOCATIONS, GOOD[TrustKind.CERTIFICATES]),
    "no collateral": (TrustKind.COLLATERAL, b"{}"),
    "no list of platforms": (TrustKind.ENDORSEMENTS, b"{"),
    "roots without form": (TrustKind.UNSAFE_ROOTS, b'{"snp": {"Genoa": ["12"]}}'),
    "roots that are no text": (TrustKind.UNSAFE_ROOTS, b'{"nitro": ["\xa6"]}'),
    "roots of an unknown kind": (TrustKind.UNSAFE_ROOTS, b'{"tpm": []}'),
    "a file that is too large": (TrustKind.CERTIFICATES, bytes(5 * 1024 * 1024)),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_of_another_kind_is_refused(backend: Backend, case: str) -> None:
    """And nothing of it is kept."""
    kind, content = BAD[case]
    with pytest.raises(EnclaveAuthorityRefusedError):
        trust_after(backend, kind, content)
    with backend.database.reading() as session:
        assert list_enclave_trust(session, by=ADMINISTRATOR) == ()


def test_a_file_is_added_once_and_removed_once(backend: Backend) -> None:
    """Both leave records; what is removed does not count any more, at once."""
    kind, content = TrustKind.CERTIFICATES, GOOD[TrustKind.CERTIFICATES]
    trust_after(backend, kind, content)
    with pytest.raises(EnclaveAuthorityConflictError):
        trust_after(backend, kind, content)
    with backend.database.reading() as session:
        (added,) = list_enclave_trust(session, by=ADMINISTRATOR)
    with backend.database.transaction() as session:
        drop_enclave_trust(session, added.id, by=ADMINISTRATOR, now=backend.clock())
    with backend.database.reading() as session:
        assert enclave_trust(session) == EnclaveTrust()
        events = [record.event for record in session.query(AuditRecord).order_by("sequence")]
    assert events[-2:] == [Event.ENCLAVE_AUTHORITY_ADDED, Event.ENCLAVE_AUTHORITY_REMOVED]
    with (
        pytest.raises(EnclaveAuthorityUnknownError),
        backend.database.transaction() as session,
    ):
        drop_enclave_trust(session, added.id, by=ADMINISTRATOR, now=backend.clock())


@pytest.mark.parametrize(
    "by",
    [
        Principal("token:x", Role.OPERATOR, groups=None),
        Principal("token:y", Role.ADMINISTRATOR, groups=frozenset({"default"})),
    ],
    ids=["an operator", "an administrator of some groups"],
)
def test_it_takes_an_administrator_of_all_devices(backend: Backend, by: Principal) -> None:
    """Roots hold for every group."""
    content = GOOD[TrustKind.UNSAFE_ROOTS]
    with pytest.raises(ForbiddenError), backend.database.transaction() as session:
        add_enclave_trust(
            session, content, kind=TrustKind.UNSAFE_ROOTS, label="", by=by, now=backend.clock()
        )


def test_a_platform_is_listed_once(backend: Backend) -> None:
    """Two lists do not give one platform two keys."""
    trust = trust_after(backend, TrustKind.ENDORSEMENTS, GOOD[TrustKind.ENDORSEMENTS])
    assert trust.cca.keys.keys() == CcaSigner().trust.keys.keys()
    endorsement = CcaSigner().endorsement
    instance = (b"\1" + bytes(32)).hex()
    other = msgspec.structs.replace(endorsement, instance_id=instance)
    trust = trust_after(backend, TrustKind.ENDORSEMENTS, msgspec.json.encode([other]))
    assert len(trust.cca.keys) == 2
    for again in (endorsement, other):
        content = b" " + msgspec.json.encode([again])
        with pytest.raises(EnclaveAuthorityRefusedError):
            trust_after(backend, TrustKind.ENDORSEMENTS, content)
    with backend.database.reading() as session:
        assert len(list_enclave_trust(session, by=ADMINISTRATOR)) == 2
        assert len(enclave_trust(session).cca.keys) == 2


def test_the_command_line_does_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Adds, lists and removes; the kind has to be said."""
    shell = Shell(tmp_path / "shell", capsys)
    shell.run("init", "--generate-passphrase", str(tmp_path / "passphrase"))
    file = tmp_path / "roots.json"
    file.write_bytes(GOOD[TrustKind.UNSAFE_ROOTS])
    shell.run("enclaves", "trust", "add", str(file), code=2)
    _, said = shell.run("enclaves", "trust", "add", str(file), "--kind", "collateral", code=1)
    assert "collateral" in said
    added = shell.json("enclaves", "trust", "add", str(file), "--kind", "unsafe-roots")
    (listed,) = shell.json("enclaves", "trust", "list")
    assert (listed["id"], listed["kind"]) == (added["id"], "unsafe-roots")
    assert "unsafe-roots" in shell.run("enclaves", "trust", "list")[0]
    shell.run("enclaves", "trust", "remove", added["id"])
    assert shell.json("enclaves", "trust", "list") == []
    shell.run("enclaves", "trust", "remove", added["id"], code=1)
