"""What other agents send and tpm2-tools write besides quotes in files of their own.

    keylime agent         r QUOTE : SIGNATURE : PCRS, each base64    read_keylime_quote
    Confidential          JSON of HCL report, quote, PCRs and        read_azure_evidence
    Containers (Azure)    VCEK or TDX quote
    tpm2_makecredential   magic, version, two sized fields           read_credential
                                                                     write_credential

As in `hwtrust.verify.tools_files`, to whose readers the parts of a quote go, all of it
is untrusted input and stays so. The zlib form of keylime's first agents is refused.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.wire import codec
from hwtrust.wire.codec import Reader
from hwtrust.wire.enclave_parts import EnclaveParts, join_quote, pem
from hwtrust.wire.protect import Credential

MAX_QUOTE_STRING: Final = 64 * 1024
"""Characters; one over all PCRs of three banks has some 10,000."""
MAX_CREDENTIAL_FIELD: Final = 1024
MAX_AZURE_EVIDENCE: Final = 256 * 1024
"""Bytes; evidence of a TD has some 20,000."""

_CREDENTIAL_MAGIC: Final = 0xBADCC0DE
_CREDENTIAL_VERSION: Final = 1
_QUOTE_START: Final = "r"
_ZLIB_START: Final = b"\x78"
_PARTS: Final = 3


_Hex = Annotated[str, Meta(pattern="^([0-9A-Fa-f]{2})*$")]


class _AzureQuote(msgspec.Struct, frozen=True):
    message: _Hex
    signature: _Hex
    pcrs: Annotated[list[_Hex], Meta(max_length=24)]


class _AzureEvidence(msgspec.Struct, frozen=True):
    """As its attesters for SNP and TDX send it; base64 with or without padding."""

    tpm_quote: _AzureQuote
    hcl_report: str
    vcek: str = ""
    td_quote: str = ""


class QuoteParts(msgspec.Struct, frozen=True):
    """A quote as keylime sends it, in the forms that `tools_files` reads."""

    message: bytes
    signature: bytes
    pcrs: bytes


def read_keylime_quote(text: str) -> QuoteParts:
    """The parts of a quote in the `quote` field of keylime's REST API.

    Raises:
        MalformedError: it has not this form.
        UnsupportedError: it is compressed.
    """
    text = text.strip()
    if len(text) > MAX_QUOTE_STRING:
        raise MalformedError(f"a quote of {len(text)} characters; {MAX_QUOTE_STRING} are taken")
    parts = text.removeprefix(_QUOTE_START).split(":")
    if not text.startswith(_QUOTE_START) or len(parts) != _PARTS:
        raise MalformedError("a quote of keylime starts with r and has three parts")
    try:
        message, signature, pcrs = (base64.b64decode(part, validate=True) for part in parts)
    except (binascii.Error, ValueError):
        raise MalformedError("a part of a quote is not base64") from None
    if message.startswith(_ZLIB_START):
        raise UnsupportedError("the quote is compressed, as the first agents of keylime did it")
    return QuoteParts(message, signature, pcrs)


def read_azure_evidence(data: bytes) -> EnclaveParts:
    """The parts in the JSON that agents of Confidential Containers send of an Azure machine.

    Raises:
        MalformedError: it has not this form.
    """
    if len(data) > MAX_AZURE_EVIDENCE:
        raise MalformedError(f"evidence of {len(data)} bytes; {MAX_AZURE_EVIDENCE} are taken")
    try:
        read = msgspec.json.decode(data, type=_AzureEvidence)
        quote = read.tpm_quote
        vcek = _base64(read.vcek)
        return EnclaveParts(
            tee=_base64(read.hcl_report),
            quote=join_quote(bytes.fromhex(quote.message), bytes.fromhex(quote.signature)),
            pcrs=msgspec.json.encode({"sha256": dict(enumerate(quote.pcrs))}),
            certificates=pem([vcek]) if vcek else b"",
            td_quote=_base64(read.td_quote),
        )
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedError(f"the evidence of an Azure machine cannot be read: {error}") from None


def _base64(text: str) -> bytes:
    """Of either alphabet, with its padding or without."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def read_credential(data: bytes) -> Credential:
    """The credential in a file of `tpm2_makecredential -o`.

    Raises:
        MalformedError: another file, cut short, or followed by something.
        UnsupportedError: of another version.
    """
    reader = Reader(data, "credential file")
    if reader.u32() != _CREDENTIAL_MAGIC:
        raise MalformedError("the file holds no credential of tpm2_makecredential")
    version = reader.u32()
    if version != _CREDENTIAL_VERSION:
        raise UnsupportedError(f"a credential file of version {version}", version=version)
    id_object = reader.sized(MAX_CREDENTIAL_FIELD)
    secret = reader.sized(MAX_CREDENTIAL_FIELD)
    reader.end()
    return Credential(id_object=id_object, encrypted_secret=secret)


def write_credential(credential: Credential) -> bytes:
    """The file that `tpm2_activatecredential -i` takes."""
    return (
        codec.u32(_CREDENTIAL_MAGIC)
        + codec.u32(_CREDENTIAL_VERSION)
        + codec.tpm2b(credential.id_object)
        + codec.tpm2b(credential.encrypted_secret)
    )
