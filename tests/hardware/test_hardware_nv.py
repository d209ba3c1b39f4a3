"""NV indices and the epoch counter, on whatever TPM there is."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import RootRevokedError, TpmError, TpmObjectConflictError
from hwtrust.testing.hardware import HANDLES, INDICES
from hwtrust.tpm import commands, provision
from hwtrust.verify.attestation import ENDORSEMENT, qualified_name
from hwtrust.verify.certify import verify_nv_certify
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.structures import NvAttributes, NvPublic

if TYPE_CHECKING:
    from hwtrust.tpm.connection import Tpm
    from simulators.anchored_hardware import OwnRange

pytestmark = pytest.mark.hardware

NONCE = hashlib.sha256(b"a challenge").digest()
SIZE = 64
ORDINARY = NvAttributes.AUTHWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA


def test_an_index_is_defined_written_read_and_deleted(connection: Tpm) -> None:
    """What was written is read back; afterwards the handle is free."""
    public = NvPublic(INDICES[-1], Alg.SHA256, ORDINARY, b"", SIZE)
    index = commands.nv_define(connection, public)
    try:
        assert public.index in provision.nv_indices(connection)
        contents = bytes(range(SIZE))
        esapi = connection.esapi
        connection.call("TPM2_NV_Write", esapi.nv_write, index, contents, auth_handle=index)
        assert commands.nv_read(connection, index, SIZE) == contents
        found = commands.nv_read_public(connection, index)
        assert found.attributes == ORDINARY | NvAttributes.WRITTEN
        assert found.size == SIZE
    finally:
        commands.nv_undefine(connection, public.index)
    assert public.index not in provision.nv_indices(connection)


def test_an_index_is_not_defined_twice(rooted: OwnRange) -> None:
    """A handle in use is found before, and refused by the TPM."""
    with pytest.raises(TpmObjectConflictError) as caught:
        provision.require_free(rooted.tpm, HANDLES)
    assert caught.value.code == "tpm:object:conflict"
    with pytest.raises(TpmError):
        commands.nv_define(rooted.tpm, NvPublic(HANDLES.counter, Alg.SHA256, ORDINARY, b"", SIZE))
    assert provision.read_counter(rooted.tpm, rooted.counter) == rooted.epoch


def test_the_counter_counts_with_leave_and_once(rooted: OwnRange) -> None:
    """A leave counts from its epoch to the next, and is spent."""
    leave = rooted.leave(rooted.epoch)
    rooted.count(leave)
    assert provision.read_counter(rooted.tpm, rooted.counter) == rooted.epoch + 1
    with pytest.raises(RootRevokedError) as caught:
        rooted.count(leave)
    assert caught.value.code == "root:revoked"
    assert provision.read_counter(rooted.tpm, rooted.counter) == rooted.epoch + 1


def test_the_counter_does_not_count_without_leave(rooted: OwnRange) -> None:
    """Neither the index's empty password nor the owner counts it."""
    index = rooted.tpm.at(rooted.counter)
    for by in (index, rooted.tpm.owner()):
        with pytest.raises(TpmError) as caught:
            rooted.tpm.call(
                "TPM2_NV_Increment", rooted.tpm.esapi.nv_increment, index, auth_handle=by
            )
        assert caught.value.code == "tpm:command:failed"
    assert provision.read_counter(rooted.tpm, rooted.counter) == rooted.epoch


def test_a_counter_that_is_made_anew_starts_above(rooted: OwnRange) -> None:
    """Whoever deletes the counter does not turn it back."""
    rooted.count(rooted.leave(rooted.epoch))
    commands.nv_undefine(rooted.tpm, HANDLES.counter)
    again = rooted.new_counter()
    assert again.name == rooted.counter.name
    assert provision.read_counter(rooted.tpm, again) > rooted.epoch + 1


def test_the_ak_certifies_the_counter(rooted: OwnRange) -> None:
    """TPM2_NV_Certify tells the value under the counter's Name, before and after counting."""
    for expected in (rooted.epoch, rooted.epoch + 1):
        signed = commands.nv_certify(
            rooted.tpm, rooted.counter, rooted.ak, qualifying=NONCE, size=8
        )
        claims = verify_nv_certify(
            signed.message,
            signed.signature,
            key=rooted.ak_public,
            nonce=NONCE,
            index_name=rooted.counter.name,
            size=8,
            signer=qualified_name(rooted.ak.name, hierarchy=ENDORSEMENT),
        )
        assert claims.value == expected
        if expected == rooted.epoch:
            rooted.count(rooted.leave(rooted.epoch))
