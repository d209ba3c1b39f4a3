"""SEV-SNP: reports, certificate tables, and certificates as a device sends them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from fuzz.target import Target
from hwtrust.verify.enclaves.snp import Unsafe, verify_snp
from hwtrust.verify.enclaves.snp_chain import endorsed
from hwtrust.wire.enclaves.snp import CertificateTable, Product, SigningKey, SnpReport
from simulators.snp_signer import NOW, Chip, trust

_ROOT: Final = Path(__file__).resolve().parents[2]
_PUBLIC: Final = (
    Path(os.environ.get("HWTRUST_VECTORS", _ROOT.parent / "shared" / "vectors")) / "sev-snp"
)
KINDS: Final = (SigningKey.VCEK, SigningKey.VLEK)


def _report(data: bytes) -> object:
    report = SnpReport.decode(data)
    assert report.encode() == report.raw
    return report.facts(), report.product


def _table(data: bytes) -> object:
    table = CertificateTable.decode(data)
    assert CertificateTable.decode(table.encode()) == table
    return table.facts()


def _chain(data: bytes) -> object:
    """A certificate table under the test roots, whose ARKs are added."""
    roots = _roots()
    files = (*CertificateTable.decode(data).certificates, *roots)
    kind = SigningKey.VLEK if b"SEV-VLEK-" in data else SigningKey.VCEK
    return endorsed(files, kind=kind, now=NOW, trust=trust())


def _whole(data: bytes) -> object:
    """A report, and the certificate table behind it."""
    table = CertificateTable.decode(data[1184:])
    return verify_snp(
        data[:1184],
        certificates=table.certificates,
        report_data=Unsafe.NO_REPORT_DATA,
        now=NOW,
        trust=trust(),
    )


@cache
def _roots() -> tuple[bytes, ...]:
    return tuple(Chip(product).authority.ark.der for product in Product)


def _reports() -> Iterator[bytes]:
    for product in Product:
        for version in (2, 3, 4, 5):
            yield Chip(product).report(version=version)
    for file in sorted(_PUBLIC.glob("*-report.bin")):
        yield file.read_bytes()


def _tables() -> Iterator[bytes]:
    for product in Product:
        for kind in KINDS:
            yield Chip(product).table(kind).encode()


def _wholes() -> Iterator[bytes]:
    for product in Product:
        for kind in KINDS:
            yield Chip(product).report(kind) + Chip(product).table(kind).encode()


TARGETS: Final[dict[str, Target]] = {
    "snp-report": Target(_report, _reports),
    "snp-certificate-table": Target(_table, _tables),
    "snp-chain": Target(_chain, _tables),
    "snp-evidence": Target(_whole, _wholes),
}
