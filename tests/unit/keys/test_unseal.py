"""A root leaves the TPM on its own conditions, encrypted, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import structs

from hwtrust.errors import (
    HwTrustError,
    RootApprovalError,
    RootExpiredError,
    RootRevokedError,
    RootStateError,
    TpmError,
    TpmTamperedError,
)
from hwtrust.keys.unseal import SealedRoot, Unsealed, unseal_root
from hwtrust.testing import bus
from hwtrust.testing.faults import (
    RC_FAILURE,
    RC_LOCKOUT,
    Alter,
    At,
    Cut,
    Fault,
    Respond,
    WiretapTcti,
)
from hwtrust.tpm import commands, provision
from hwtrust.tpm.connection import Pinned, Tpm
from hwtrust.tpm.sessions import hmac_session
from hwtrust.tpm.templates import STORAGE_KEY
from hwtrust.wire.cel import CAP
from hwtrust.wire.policy import fold, pcr_digest
from hwtrust.wire.root import authorization, root_policy, root_ref, sign_approval
from hwtrust.wire.structures import EccPoint, Public
from simulators.anchored_tpm import ELSEWHERE, AnchoredTpm, PolicyKey, loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpm2_pytss.TCTI import TCTI

    from hwtrust.testing.swtpm import Swtpm

SECRET = bytes(range(0xA0, 0xC0))
CLEAR = 0x126
SEQUENCE = [
    "TPM2_Load",
    "TPM2_StartAuthSession",
    "TPM2_PolicyPCR",
    "TPM2_PolicyOR",
    "TPM2_PolicyNV",
    "TPM2_PolicyCounterTimer",
    "TPM2_LoadExternal",
    "TPM2_VerifySignature",
    "TPM2_FlushContext",
    "TPM2_PolicyAuthorize",
    "TPM2_Unseal",
    "TPM2_FlushContext",
]
TICKETS = ("TPM2_LoadExternal", "TPM2_VerifySignature", "TPM2_FlushContext")


def counted(anchored: AnchoredTpm, root: SealedRoot) -> tuple[Unsealed, list[str]]:
    """Unseal over a connection of its own; the commands that it took."""
    with anchored.counted() as (tpm, heard):
        opened = unseal_root(tpm, anchored.anchorage, root, branch=0)
        return opened, list(heard.sequence)


# --- it opens --------------------------------------------------------------------


@pytest.mark.parametrize("branch", [0, 1])
def test_a_root_opens_in_an_approved_state(anchored: AnchoredTpm, branch: int) -> None:
    """The bytes that the backend sealed come out, by either branch."""
    now = pcr_digest([anchored.pcr()])
    states = [(now, ELSEWHERE), (ELSEWHERE, now)]
    state, other = states[branch]
    root = anchored.seal(SECRET, approval=anchored.approval(state=state, other=other))
    opened = unseal_root(anchored.tpm, anchored.anchorage, root, branch=branch)
    assert opened.secret == SECRET
    assert loaded(anchored.swtpm) == {}


def test_unsealing_takes_twelve_commands_and_nine_with_a_ticket(anchored: AnchoredTpm) -> None:
    """The budget: the ticket of an earlier time spares the check of the signature."""
    root = anchored.seal(SECRET)
    opened, sequence = counted(anchored, root)
    assert sequence == SEQUENCE
    again, shorter = counted(anchored, replace(root, ticket=opened.ticket))
    assert again == opened
    rest = SEQUENCE[: SEQUENCE.index("TPM2_LoadExternal")]
    assert shorter == [*rest, "TPM2_PolicyAuthorize", "TPM2_Unseal", "TPM2_FlushContext"]


def test_a_ticket_lasts_over_a_reboot(anchored: AnchoredTpm) -> None:
    """It is of the owner hierarchy, not of one boot."""
    root = anchored.seal(SECRET)
    opened, _ = counted(anchored, root)
    anchored.swtpm.reboot()
    again, sequence = counted(anchored, replace(root, ticket=opened.ticket))
    assert again.secret == SECRET
    assert "TPM2_VerifySignature" not in sequence


def test_a_ticket_from_before_a_clear_falls_back_to_the_signature(tpm: Swtpm) -> None:
    """TPM2_Clear makes every ticket void; the next root opens all the same (58)."""
    key = PolicyKey()
    with AnchoredTpm(tpm, key=key) as anchored:
        opened, _ = counted(anchored, anchored.seal(SECRET))
    tpm.bus.run(CLEAR, handles=(bus.PLATFORM,), passwords=(b"",))
    with AnchoredTpm(tpm, key=key) as anchored:
        root = anchored.seal(SECRET, ticket=opened.ticket)
        again, sequence = counted(anchored, root)
        assert again.secret == SECRET
        assert again.ticket != opened.ticket
        assert sequence.count("TPM2_PolicyAuthorize") == 2
        assert loaded(tpm) == {}


def test_neither_root_nor_ticket_is_in_a_repr(anchored: AnchoredTpm) -> None:
    """What a traceback or log shows of an unsealed root holds no secret (104)."""
    opened = unseal_root(anchored.tpm, anchored.anchorage, anchored.seal(SECRET), branch=0)
    shown = repr(opened) + str(opened)
    assert SECRET.hex() not in shown
    assert repr(SECRET)[2:-1] not in shown


def test_the_root_does_not_appear_in_clear_on_the_bus(anchored: AnchoredTpm) -> None:
    """Whoever hears every byte between program and TPM does not learn the root."""
    wires: list[WiretapTcti] = []

    def wrap(inner: TCTI) -> TCTI:
        wires.append(WiretapTcti(inner))
        return wires[-1]

    root = anchored.seal(SECRET)
    with Tpm(anchored.swtpm.tcti, wrap=wrap) as tpm:
        assert unseal_root(tpm, anchored.anchorage, root, branch=0).secret == SECRET
    (wire,) = wires
    assert wire.buffers == 2 * len(SEQUENCE)
    assert wire.heard(root.approval.branches[0].pcr_digest), "the wire carries what is no secret"
    for start in range(len(SECRET) - 8):
        assert not wire.heard(SECRET[start : start + 8])


# --- it does not -----------------------------------------------------------------


def test_a_root_does_not_open_in_another_state(anchored: AnchoredTpm) -> None:
    """Any other value of the PCR, and the TPM itself refuses."""
    root = anchored.seal(SECRET)
    with hmac_session(anchored.tpm, anchored.storage) as session:
        banks = provision.active_banks(anchored.tpm)
        commands.pcr_extend(anchored.tpm, 8, CAP.digests(banks), session)
    for branch in (0, 1):
        with pytest.raises(RootStateError) as caught:
            unseal_root(anchored.tpm, anchored.anchorage, root, branch=branch)
        assert caught.value.code == "root:state:unapproved"
        assert loaded(anchored.swtpm) == {}


def test_a_root_does_not_open_once_it_has_expired(anchored: AnchoredTpm) -> None:
    """At not_after by its own clock, the TPM refuses (66)."""
    root = anchored.seal(SECRET)
    commands.clock_set(anchored.tpm, root.approval.not_after)
    with pytest.raises(RootExpiredError) as caught:
        unseal_root(anchored.tpm, anchored.anchorage, root, branch=0)
    assert caught.value.code == "root:expired"
    assert loaded(anchored.swtpm) == {}


def test_a_root_does_not_open_once_it_is_revoked(anchored: AnchoredTpm) -> None:
    """One increment of the counter, and the TPM refuses; the next root opens before and after."""
    root, following = anchored.seal(SECRET), anchored.seal(SECRET[::-1], epoch=anchored.epoch + 1)
    assert unseal_root(anchored.tpm, anchored.anchorage, following, branch=0).secret != SECRET
    anchored.count(anchored.leave(anchored.epoch))
    with pytest.raises(RootRevokedError) as caught:
        unseal_root(anchored.tpm, anchored.anchorage, root, branch=0)
    assert caught.value.code == "root:revoked"
    assert loaded(anchored.swtpm) == {}
    assert unseal_root(anchored.tpm, anchored.anchorage, following, branch=0).secret != SECRET


APPROVALS: dict[str, Callable[[AnchoredTpm, SealedRoot], SealedRoot]] = {
    "of the next epoch": lambda it, root: with_approval(it, root, epoch=it.epoch + 1),
    "of an older epoch": lambda it, root: with_approval(it, root, epoch=it.epoch - 1),
    "of another device": lambda it, root: with_approval(it, root, device=b"\x00\x0b" + bytes(32)),
    "of another policy key": lambda it, root: with_approval(it, root, key=PolicyKey()),
}


def with_approval(
    anchored: AnchoredTpm,
    root: SealedRoot,
    *,
    epoch: int | None = None,
    device: bytes | None = None,
    key: PolicyKey | None = None,
) -> SealedRoot:
    """The root with an approval that is well signed, for something else."""
    key = key or anchored.key
    ref = root_ref(device or anchored.device, anchored.epoch if epoch is None else epoch)
    approval = sign_approval(anchored.approval(epoch=epoch), ref, sign_digest=key.sign)
    statement = authorization(approval, ref, policy_key=key.public)
    return replace(root, approval=approval, authorization=statement)


@pytest.mark.parametrize("case", APPROVALS)
def test_an_approval_for_something_else_opens_nothing(anchored: AnchoredTpm, case: str) -> None:
    """The reference and the key are in the object's policy: refused without a command (60)."""
    root = APPROVALS[case](anchored, anchored.seal(SECRET))
    with anchored.counted() as (tpm, heard):
        with pytest.raises(RootApprovalError) as caught:
            unseal_root(tpm, anchored.anchorage, root, branch=0)
        assert caught.value.code == "root:approval:invalid"
        assert heard.total == 0


def test_the_tpm_itself_refuses_an_approval_of_the_next_epoch(anchored: AnchoredTpm) -> None:
    """An object of E does not open by an approval for E + 1, whatever this program checks (60)."""
    root = with_approval(anchored, anchored.seal(SECRET), epoch=anchored.epoch + 1)
    pretended = replace(root.public, auth_policy=fold((root.authorization,)))
    with pytest.raises(TpmError):
        unseal_root(anchored.tpm, anchored.anchorage, replace(root, public=pretended), branch=0)
    assert loaded(anchored.swtpm) == {}


def test_an_approval_whose_recipe_was_changed_opens_nothing(anchored: AnchoredTpm) -> None:
    """More time, or another state, than the policy key has signed is refused by the TPM (60)."""
    root = anchored.seal(SECRET)
    longer = msgspec.structs.replace(root.approval, not_after=root.approval.not_after + 1)
    with pytest.raises(RootApprovalError) as caught:
        unseal_root(anchored.tpm, anchored.anchorage, replace(root, approval=longer), branch=0)
    assert caught.value.code == "root:approval:invalid"
    assert loaded(anchored.swtpm) == {}


def test_a_state_that_changes_meanwhile_is_noticed(anchored: AnchoredTpm) -> None:
    """An extend between PolicyPCR and Unseal takes the leave away."""
    root = anchored.seal(SECRET)

    class Meanwhile:
        def apply(self, request: bytes, forward: Callable[[bytes], bytes]) -> bytes:
            extend_elsewhere(anchored)
            return forward(request)

    with anchored.through(At(Meanwhile(), command="TPM2_Unseal")) as tpm:
        with pytest.raises(RootStateError) as caught:
            unseal_root(tpm, anchored.anchorage, root, branch=0)
        assert caught.value.code == "root:state:unapproved"
        assert loaded(anchored.swtpm) == {}


def extend_elsewhere(anchored: AnchoredTpm) -> None:
    """Extend PCR 8 as another program does: TPM2_PCR_Event by password."""
    pcr_event = 0x13C
    anchored.swtpm.bus.run(pcr_event, b"\x00\x01x", handles=(8,), passwords=(b"",))


PRIVATE_PARTS: dict[str, Callable[[bytes], bytes]] = {
    "changed": lambda private: bytes([*private[:-1], private[-1] ^ 1]),
    "cut short": lambda private: private[:-1],
    "empty": lambda _: b"",
    "longer than any": lambda _: bytes(5000),
    "longer than can be said": lambda _: bytes(70000),
}


@pytest.mark.parametrize("case", PRIVATE_PARTS)
def test_a_private_part_that_was_changed_on_disk_opens_nothing(
    anchored: AnchoredTpm, case: str
) -> None:
    """The file is nobody's to trust: any content ends in an error of the tree."""
    root = anchored.seal(SECRET)
    changed = replace(root, private=PRIVATE_PARTS[case](root.private))
    with pytest.raises(HwTrustError):
        unseal_root(anchored.tpm, anchored.anchorage, changed, branch=0)
    assert loaded(anchored.swtpm) == {}


def test_a_root_of_another_tpm_opens_nothing(
    anchored: AnchoredTpm, tpm_factory: Callable[[], Swtpm]
) -> None:
    """What one TPM imported is of no use to another (67)."""
    root = anchored.seal(SECRET)
    with AnchoredTpm(tpm_factory(), key=anchored.key) as other, pytest.raises(TpmError):
        unseal_root(other.tpm, other.anchorage, root, branch=0)


# --- on the bus ------------------------------------------------------------------


def test_no_altered_byte_of_the_answer_is_believed(anchored: AnchoredTpm) -> None:
    """Each byte of Unseal's response, altered: an error, and nothing stays loaded (78)."""
    root = anchored.seal(SECRET)
    size = 10 + 4 + (2 + 32) + (2 + 32) + 1 + (2 + 32)
    codes: dict[str, int] = {}
    for offset in range(size):
        with anchored.through(At(Alter("response", offset), command="TPM2_Unseal")) as tpm:
            try:
                opened = unseal_root(tpm, anchored.anchorage, root, branch=0)
            except HwTrustError as error:
                codes[error.code] = codes.get(error.code, 0) + 1
            else:
                # Of the header, tag and size may go unread. The secret never differs.
                assert offset < 6
                assert opened.secret == SECRET
            assert loaded(anchored.swtpm) == {}
            assert unseal_root(tpm, anchored.anchorage, root, branch=0).secret == SECRET
    assert codes["tpm:response:tampered"] > size - 14


@pytest.mark.parametrize("offset", [14, 20, 47, -1, -33])
def test_a_tampered_answer_says_so(anchored: AnchoredTpm, offset: int) -> None:
    """Ciphertext, nonce or HMAC altered: tampering, and a connection that works on (78)."""
    root = anchored.seal(SECRET)
    with anchored.through(At(Alter("response", offset), command="TPM2_Unseal")) as tpm:
        context = tpm.esapi
        with pytest.raises(TpmTamperedError) as caught:
            unseal_root(tpm, anchored.anchorage, root, branch=0)
        assert caught.value.code == "tpm:response:tampered"
        assert loaded(anchored.swtpm) == {}
        assert tpm.esapi is not context
        assert unseal_root(tpm, anchored.anchorage, root, branch=0).secret == SECRET


def test_a_secret_that_the_bus_made_up_is_not_taken(anchored: AnchoredTpm) -> None:
    """A success with the interposer's own bytes, with and without sessions, is refused (78)."""
    root = anchored.seal(SECRET)
    theirs = b"\x00\x20" + bytes(32)
    nonce = b"\x00\x20" + bytes(32)
    bodies = {
        0x8001: theirs,
        0x8002: len(theirs).to_bytes(4, "big") + theirs + nonce + b"\x00" + nonce,
    }

    class MadeUp:
        def __init__(self, tag: int) -> None:
            self.tag = tag

        def apply(self, request: bytes, forward: Callable[[bytes], bytes]) -> bytes:
            del request, forward
            body = bodies[self.tag]
            head = self.tag.to_bytes(2, "big") + (10 + len(body)).to_bytes(4, "big") + bytes(4)
            return head + body

    for tag in bodies:
        with anchored.through(At(MadeUp(tag), command="TPM2_Unseal")) as tpm:
            with pytest.raises(TpmTamperedError) as caught:
                unseal_root(tpm, anchored.anchorage, root, branch=0)
            assert caught.value.code == "tpm:response:tampered"
            assert loaded(anchored.swtpm) == {}


FAULTS: dict[str, Fault] = {
    "cut before": Cut("before"),
    "cut after": Cut("after"),
    "failure mode": Respond(RC_FAILURE),
    "lockout": Respond(RC_LOCKOUT),
    "a parameter refused": Respond(0x1C4),
    "a garbled size": Alter("response", 2, 0xFF),
}


@pytest.mark.parametrize("case", FAULTS)
def test_nothing_stays_loaded_wherever_unsealing_fails(anchored: AnchoredTpm, case: str) -> None:
    """Each command of an unseal fails once: a typed error, free slots, and it works again."""
    root = anchored.seal(SECRET)
    for nth in range(1, len(SEQUENCE) + 1):
        with anchored.through(At(FAULTS[case], nth=nth)) as tpm:
            try:
                opened = unseal_root(tpm, anchored.anchorage, root, branch=0)
            except HwTrustError:
                pass
            else:
                # A ticket or flush that failed once was made up for.
                assert opened.secret == SECRET
            assert loaded(anchored.swtpm) == {}, SEQUENCE[nth - 1]
            assert unseal_root(tpm, anchored.anchorage, root, branch=0).secret == SECRET


def test_a_salt_key_of_the_interposers_learns_nothing(anchored: AnchoredTpm) -> None:
    """With the interposer's key in the pin's blob, under our Name, no session opens to it (77)."""
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    point = EccPoint(numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big"))
    theirs = replace(STORAGE_KEY, unique=point).encode_sized()
    ours = anchored.storage_public.encode_sized()
    blob = anchored.storage.blob
    assert ours in blob
    forged = Pinned(anchored.storage.handle, anchored.storage.name, blob.replace(ours, theirs))
    root = anchored.seal(SECRET)
    points: list[bytes] = []
    with Tpm(anchored.swtpm.tcti) as tpm:
        known = tpm.at(forged)
        public = tpm.call("TPM2_ReadPublic", tpm.esapi.read_public, known)[0]
        points.append(Public.decode(public.publicArea.marshal()).name)
        assert bytes(tpm.esapi.tr_get_name(known)) == anchored.storage.name
        where = structs.replace(anchored.anchorage, storage_key=forged)
        assert unseal_root(tpm, where, root, branch=0).secret == SECRET
    assert points == [anchored.storage.name]


def test_the_policy_of_a_root_is_its_epochs(anchored: AnchoredTpm) -> None:
    """Two epochs, two policies: with one, an approval of E + 1 would open the object of E."""
    first, second = (
        fold(root_policy(anchored.key.public, anchored.device, epoch)) for epoch in (1, 2)
    )
    assert first != second
