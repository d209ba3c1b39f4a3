"""Hypothesis strategies for the TPM structures of `hwtrust.wire.structures`."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from hwtrust.wire.algorithms import Alg, Curve
from hwtrust.wire.structures import (
    AES_128_CFB,
    AES_256_CFB,
    NO_SYMMETRIC,
    Attest,
    CertifyInfo,
    ClockInfo,
    CreationInfo,
    EccParams,
    EccPoint,
    KeyedHashParams,
    NvAttributes,
    NvCertifyInfo,
    NvPublic,
    ObjectAttributes,
    PcrSelection,
    Public,
    QuoteInfo,
    RsaParams,
    Signature,
    SymCipherParams,
    Symmetric,
)

HASHES: Final = (Alg.SHA1, Alg.SHA256, Alg.SHA384, Alg.SHA512)

u16s = st.integers(0, 2**16 - 1)
u32s = st.integers(0, 2**32 - 1)
u64s = st.integers(0, 2**64 - 1)
hashes = st.sampled_from(HASHES)
digests = st.binary(max_size=64)
names = st.binary(max_size=66)


@st.composite
def selections(draw: st.DrawFn) -> PcrSelection:
    """Any banks in any order, bitmaps of 3 or 4 bytes."""
    banks, widths = [], []
    for bank in draw(st.lists(hashes, unique=True)):
        width = draw(st.integers(3, 4))
        numbers = draw(st.sets(st.integers(0, 8 * width - 1)))
        banks.append((bank, tuple(sorted(numbers))))
        widths.append(width)
    return PcrSelection(tuple(banks), widths=tuple(widths))


clock_infos = st.builds(
    ClockInfo, clock=u64s, reset_count=u32s, restart_count=u32s, safe=st.booleans()
)
attested = st.one_of(
    st.builds(QuoteInfo, selection=selections(), digest=digests),
    st.builds(CertifyInfo, name=names, qualified_name=names),
    st.builds(NvCertifyInfo, index_name=names, offset=u16s, contents=st.binary(max_size=300)),
    st.builds(CreationInfo, name=names, creation_hash=digests),
)
attests = st.builds(
    Attest.build,
    qualified_signer=names,
    extra_data=st.binary(max_size=66),
    clock=clock_infos,
    firmware_version=u64s,
    attested=attested,
)

symmetrics = st.sampled_from(
    [NO_SYMMETRIC, AES_128_CFB, AES_256_CFB, Symmetric(Alg.CAMELLIA, 128, Alg.CFB)]
)
no_scheme = st.just((Alg.NULL, None))
ecc_schemes = no_scheme | st.tuples(st.sampled_from([Alg.ECDSA, Alg.ECDH, Alg.SM2]), hashes)
rsa_schemes = (
    no_scheme
    | st.just((Alg.RSAES, None))
    | st.tuples(st.sampled_from([Alg.RSASSA, Alg.RSAPSS, Alg.OAEP]), hashes)
)
kdfs = no_scheme | st.tuples(st.sampled_from([Alg.KDF1_SP800_56A, Alg.KDF1_SP800_108]), hashes)


@st.composite
def ecc_params(draw: st.DrawFn) -> EccParams:
    """The parameters of an ECC key."""
    scheme, scheme_hash = draw(ecc_schemes)
    kdf, kdf_hash = draw(kdfs)
    curve = draw(st.sampled_from(Curve))
    return EccParams(draw(symmetrics), scheme, scheme_hash, curve, kdf, kdf_hash)


@st.composite
def rsa_params(draw: st.DrawFn) -> RsaParams:
    """The parameters of an RSA key."""
    scheme, scheme_hash = draw(rsa_schemes)
    bits = draw(st.sampled_from([1024, 2048, 3072, 4096]))
    return RsaParams(draw(symmetrics), scheme, scheme_hash, bits, draw(u32s))


@st.composite
def keyed_hash_params(draw: st.DrawFn) -> KeyedHashParams:
    """The parameters of sealed data, or of an HMAC or XOR key."""
    scheme = draw(st.sampled_from([Alg.NULL, Alg.HMAC, Alg.XOR]))
    if scheme is Alg.NULL:
        return KeyedHashParams()
    kdf = Alg.KDF1_SP800_108 if scheme is Alg.XOR else None
    return KeyedHashParams(scheme, draw(hashes), kdf)


@st.composite
def publics(draw: st.DrawFn) -> Public:
    """Any object's public area, whether or not a TPM would make one."""
    type_ = draw(st.sampled_from([Alg.ECC, Alg.RSA, Alg.KEYEDHASH, Alg.SYMCIPHER]))
    unique: bytes | EccPoint = draw(st.binary(max_size=64))
    params: EccParams | RsaParams | KeyedHashParams | SymCipherParams
    if type_ is Alg.ECC:
        params = draw(ecc_params())
        unique = EccPoint(draw(st.binary(max_size=48)), draw(st.binary(max_size=48)))
    elif type_ is Alg.RSA:
        params = draw(rsa_params())
        unique = draw(st.binary(max_size=512))
    elif type_ is Alg.KEYEDHASH:
        params = draw(keyed_hash_params())
    else:
        params = SymCipherParams(draw(st.sampled_from([AES_128_CFB, AES_256_CFB])))
    return Public(
        type=type_,
        name_alg=draw(hashes),
        attributes=ObjectAttributes(draw(u32s)),
        auth_policy=draw(digests),
        params=params,
        unique=unique,
    )


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """RSA of any length, and ECDSA with and without leading zeros."""
    alg = draw(st.sampled_from([Alg.RSASSA, Alg.RSAPSS, Alg.ECDSA]))
    hash_ = draw(hashes)
    if alg is not Alg.ECDSA:
        return Signature(alg, hash_, draw(st.binary(max_size=512)))
    r, s = draw(st.binary(max_size=66)), draw(st.binary(max_size=66))
    value = int.from_bytes(r, "big"), int.from_bytes(s, "big")
    return Signature(alg, hash_, value, (len(r), len(s)))


nv_publics = st.builds(
    NvPublic,
    index=st.integers(0x0100_0000, 0x01FF_FFFF),
    name_alg=hashes,
    attributes=st.builds(NvAttributes, u32s),
    auth_policy=digests,
    size=u16s,
)
