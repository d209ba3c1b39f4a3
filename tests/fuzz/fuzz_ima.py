"""IMA logs: decoding in both forms, their rules, and file signatures."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from fuzz.target import Target
from hwtrust.verify.logs.ima import START, verify_ima
from hwtrust.verify.logs.ima_reference import reference_from_ima
from hwtrust.verify.logs.ima_rules import ImaRules, PreparedImaRules, Unsafe, appraise_ima
from hwtrust.verify.logs.ima_signature import FileKeys
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.logs.ima import ImaLog
from hwtrust.wire.logs.ima_template import FileDigest
from simulators.ima_log import ImaKernel, ec_key, public_pem, sign

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path(__file__).resolve().parents[2]
_PUBLIC: Final = (
    Path(os.environ.get("HWTRUST_VECTORS", _ROOT.parent / "shared" / "vectors")) / "ima-logs"
)
_DIGEST: Final = hashlib.sha256(b"file").digest()
_KEYS: Final = FileKeys([public_pem(ec_key())])
_RULES: Final = PreparedImaRules(
    ImaRules(excludes=("/var/*",), keys=(public_pem(ec_key()),), unsafe_any_buffer=True)
)


def _kernel() -> ImaKernel:
    signature = sign(ec_key(), _DIGEST)
    return (
        ImaKernel()
        .file("boot_aggregate")
        .file("/bin/a", b"file", template="ima-sig", signature=signature)
        .file("/bin/b", b"b", template="ima", algorithm="sha1")
        .file("/bin/c", template="d-ng|sig", violation=True)
        .buffer(".ima", b"key")
    )


def _logs() -> Iterator[bytes]:
    yield _kernel().log()
    yield _kernel().log(bank=Alg.SHA384)
    yield _kernel().text()
    for file in sorted(_PUBLIC.glob("tpm2-tss/*.bin")):
        yield file.read_bytes()
    for name in ("keylime/signatures.txt", "keylime/ast-valid.txt"):
        if (_PUBLIC / name).exists():
            yield (_PUBLIC / name).read_bytes()


def _read(data: bytes) -> object:
    log = ImaLog.decode(data)
    return [entry.facts() for entry in log.entries()], log.facts()


def _judge(data: bytes) -> object:
    """The whole of it, with the value that the log comes to by itself."""
    log = ImaLog.decode(data)
    value = bytes(32)
    for one in log.template_data(10):
        value = hashlib.sha256(value + hashlib.sha256(one).digest()).digest()
    claims = verify_ima(log, bank=Alg.SHA256, value=value, state=START, known=_RULES.known)
    return appraise_ima(claims, rules=_RULES, pcrs=Unsafe.ANY_BOOT_AGGREGATE)


def _whole() -> Iterator[bytes]:
    yield ImaKernel().file("boot_aggregate").file("/bin/a", b"a").buffer(".ima", b"key").log()
    yield ImaKernel().file("boot_aggregate").file("/bin/a", b"a", template="ima-sig").text()


class _Table(msgspec.Struct):
    ima: ImaRules


def _reference(data: bytes) -> object:
    """What is made of a log is read as rules."""
    text = reference_from_ima(ImaLog.decode(data).entries())
    return PreparedImaRules(msgspec.toml.decode(text, type=_Table).ima)


TARGETS: Final[dict[str, Target]] = {
    "ima_log": Target(_read, _logs),
    "ima_appraisal": Target(_judge, _whole),
    "ima_signature": Target(
        lambda data: _KEYS.check(data, FileDigest("sha256", _DIGEST)),
        lambda: iter([sign(ec_key(), _DIGEST), sign(ec_key(), _DIGEST, version=3)]),
    ),
    "ima_reference": Target(_reference, _whole),
}
