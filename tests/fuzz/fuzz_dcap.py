"""Quotes of TDX and SGX, their collateral, and what is checked before dcap-qvl sees them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuzz.target import Target
from hwtrust.verify.enclaves.dcap import DcapTrust, Unsafe
from hwtrust.verify.enclaves.sgx import verify_sgx
from hwtrust.verify.enclaves.tdx import verify_tdx
from hwtrust.wire.enclaves.dcap import Collateral, Quote, TcbInfo, Tee
from simulators.dcap_signer import NOW, TEE_TCB_SVN, DcapSigner, td_report

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTEL: Final = DcapSigner()
_TRUST: Final = DcapTrust.of(_INTEL.root.der)
_FOR: Final = {
    tee: Collateral.decode(_INTEL.collateral(tee.name.lower())) for tee in (Tee.SGX, Tee.TDX)
}
_QUOTE: Final = Quote.decode(_INTEL.sgx())


def _public(ending: str) -> Iterator[bytes]:
    root = Path(__file__).resolve().parents[2]
    vectors = Path(os.environ.get("HWTRUST_VECTORS", root.parent / "shared" / "vectors"))
    for folder in ("sgx", "tdx"):
        for file in sorted((vectors / folder).glob(f"*{ending}")):
            yield file.read_bytes()


def _quotes() -> Iterator[bytes]:
    yield _INTEL.sgx()
    yield _INTEL.tdx(padding=bytes(70))
    yield _INTEL.tdx(version=5)
    yield _INTEL.tdx(td_report(tee_tcb_svn2=TEE_TCB_SVN), version=5)
    # One of them has something behind it that is no padding.
    yield from (raw for raw in _public(".quote") if b"extra bytes" not in raw)


def _collaterals() -> Iterator[bytes]:
    yield _INTEL.collateral("sgx")
    yield _INTEL.collateral("tdx")
    yield from _public(".collateral.json")


def _tcb_infos() -> Iterator[bytes]:
    for collateral in _FOR.values():
        yield collateral.tcb_info.encode()


def _tcb_info(raw: bytes) -> object:
    return TcbInfo.decode(raw.decode("utf-8", "replace"))


def _verify_quote(raw: bytes) -> object:
    quote = Quote.decode(raw)
    verify = verify_tdx if quote.tee is Tee.TDX else verify_sgx
    return verify(
        quote,
        collateral=_FOR[quote.tee],
        report_data=Unsafe.NO_REPORT_DATA,
        now=NOW,
        trust=_TRUST,
    )


def _verify_with_collateral(raw: bytes) -> object:
    return verify_sgx(
        _QUOTE,
        collateral=Collateral.decode(raw),
        report_data=Unsafe.NO_REPORT_DATA,
        now=NOW,
        trust=_TRUST,
    )


TARGETS: Final[dict[str, Target]] = {
    "dcap_quote": Target(lambda raw: Quote.decode(raw).facts(), _quotes),
    "dcap_collateral": Target(lambda raw: Collateral.decode(raw).facts(), _collaterals),
    "dcap_tcb_info": Target(_tcb_info, _tcb_infos),
    "dcap_verify_quote": Target(
        _verify_quote, lambda: (_INTEL.sgx(), _INTEL.tdx(), _INTEL.tdx(version=5))
    ),
    "dcap_verify_collateral": Target(_verify_with_collateral, lambda: (_INTEL.collateral("sgx"),)),
}
