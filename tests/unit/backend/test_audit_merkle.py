"""The Merkle tree against published vectors, the RFC's own definition, and forged proofs."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwtrust.errors import AuditProofError
from hwtrust_backend.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# Leaves, roots and proofs of the Certificate Transparency reference implementation
# (google/certificate-transparency, merkletree/merkle_tree_test.cc; the same in
# transparency-dev/merkle, testonly).
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
N10 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
N23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
N4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
N45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
N47 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
N67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
INCLUSION = {
    (0, 1): [],
    (0, 8): [N10, N23, N47],
    (5, 8): [N4, N67, ROOTS[4]],
    (2, 3): [ROOTS[2]],
    (1, 5): [ROOTS[1], N23, N4],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [N10, N23, N47],
    (6, 8): [N45, N67, ROOTS[4]],
    (2, 5): [N23, N4],
}
LARGEST = 130


class Tree:
    """A tree by the definition of RFC 9162 §2.1, word for word; the leaves are in memory."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = leaves
        self.roots: dict[tuple[int, int], bytes] = {}

    def root(self, begin: int, end: int) -> bytes:
        """MTH(D[begin:end]), §2.1.1."""
        if begin == end:
            return hashlib.sha256().digest()
        if end - begin == 1:
            return self.leaves[begin]
        if (begin, end) not in self.roots:
            middle = begin + split_point(end - begin)
            pair = self.root(begin, middle) + self.root(middle, end)
            self.roots[begin, end] = hashlib.sha256(b"\x01" + pair).digest()
        return self.roots[begin, end]

    def path(self, index: int, begin: int, end: int) -> list[bytes]:
        """PATH(index, D[begin:end]), §2.1.3.1."""
        if end - begin == 1:
            return []
        middle = begin + split_point(end - begin)
        if index < middle - begin:
            return [*self.path(index, begin, middle), self.root(middle, end)]
        return [*self.path(index - (middle - begin), middle, end), self.root(begin, middle)]

    def subproof(self, old: int, begin: int, end: int, *, known: bool) -> list[bytes]:
        """SUBPROOF(old, D[begin:end], known), §2.1.4.1."""
        if old == end - begin:
            return [] if known else [self.root(begin, end)]
        half = split_point(end - begin)
        middle = begin + half
        if old <= half:
            return [*self.subproof(old, begin, middle, known=known), self.root(middle, end)]
        rest = self.subproof(old - half, middle, end, known=False)
        return [*rest, self.root(begin, middle)]

    def __call__(self, level: int, number: int) -> bytes:
        """A node of a full subtree; asking for another one is a defect."""
        begin, end = number << level, (number + 1) << level
        assert end <= len(self.leaves)
        return self.root(begin, end)


def split_point(size: int) -> int:
    """The largest power of two that is smaller than `size`."""
    half = 1
    while half * 2 < size:
        half *= 2
    return half


def leaf(number: int) -> bytes:
    """The hash of some leaf."""
    return leaf_hash(number.to_bytes(4, "big"))


def hashes(texts: list[str]) -> list[bytes]:
    """The same in bytes."""
    return [bytes.fromhex(text) for text in texts]


REFERENCE = Tree([leaf_hash(entry) for entry in ENTRIES])
TREE = Tree([leaf(number) for number in range(LARGEST)])


def forged(proof: tuple[bytes, ...]) -> Iterator[list[bytes]]:
    """Every way in which one hash of a proof is altered, dropped, added, or swapped."""
    for at, item in enumerate(proof):
        yield [*proof[:at], bytes([item[0] ^ 1]) + item[1:], *proof[at + 1 :]]
        yield [*proof[:at], item[:-1] + bytes([item[-1] ^ 0x80]), *proof[at + 1 :]]
        yield [*proof[:at], item[:-1], *proof[at + 1 :]]
        yield [*proof[:at], *proof[at + 1 :]]
        yield [*proof[:at], item, *proof[at:]]
    for at, (one, two) in enumerate(pairwise(proof)):
        yield [*proof[:at], two, one, *proof[at + 2 :]]
    yield [*proof, bytes(32)]
    yield [bytes(32), *proof]


def accepts_inclusion(proof: list[bytes], *, index: int, size: int, of: int | None = None) -> bool:
    """Whether a proof passes for a leaf of `TREE`."""
    root = TREE.root(0, size)
    try:
        check_inclusion(
            leaf(index if of is None else of), index=index, size=size, root=root, proof=proof
        )
    except AuditProofError:
        return False
    return True


def accepts_consistency(proof: list[bytes], old: int, size: int, **roots: bytes) -> bool:
    """Whether a proof passes between two sizes of `TREE`."""
    known = {"old_root": TREE.root(0, old), "root": TREE.root(0, size), **roots}
    try:
        check_consistency(old=old, size=size, proof=proof, **known)
    except AuditProofError:
        return False
    return True


# --- published vectors -------------------------------------------------------------------


def test_the_published_roots_come_out() -> None:
    """Every size of the Certificate Transparency reference tree, also the empty one."""
    tree, found = Frontier(), []
    for number in range(len(ROOTS)):
        found.append(tree.root().hex())
        assert root_of(REFERENCE.leaves[:number]) == tree.root()
        if number < len(ENTRIES):
            tree.append(leaf_hash(ENTRIES[number]))
    assert found == ROOTS


@pytest.mark.parametrize(("place", "proof"), INCLUSION.items(), ids=str)
def test_the_published_inclusion_proofs_come_out(place: tuple[int, int], proof: list[str]) -> None:
    """They are made as published, and accepted."""
    index, size = place
    assert list(inclusion_proof(REFERENCE, index, size)) == hashes(proof)
    root = bytes.fromhex(ROOTS[size])
    leaf_of_it = REFERENCE.leaves[index]
    check_inclusion(leaf_of_it, index=index, size=size, root=root, proof=hashes(proof))


@pytest.mark.parametrize(("sizes", "proof"), CONSISTENCY.items(), ids=str)
def test_the_published_consistency_proofs_come_out(
    sizes: tuple[int, int], proof: list[str]
) -> None:
    """They are made as published, and accepted."""
    old, size = sizes
    assert list(consistency_proof(REFERENCE, old, size)) == hashes(proof)
    roots = {"old_root": bytes.fromhex(ROOTS[old]), "root": bytes.fromhex(ROOTS[size])}
    check_consistency(old=old, size=size, proof=hashes(proof), **roots)


# --- the definition ----------------------------------------------------------------------


def test_every_root_is_that_of_the_definition() -> None:
    """Appending with a frontier gives the recursive definition's root at each size."""
    tree = Frontier()
    assert tree.root() == EMPTY_ROOT
    for size in range(1, LARGEST + 1):
        tree.append(TREE.leaves[size - 1])
        assert (tree.size, tree.root()) == (size, TREE.root(0, size))
        assert Frontier.decode(size, tree.encode()).root() == tree.root()


def test_every_inclusion_proof_is_that_of_the_definition() -> None:
    """For every leaf of every size: made as the RFC says, and accepted."""
    for size in range(1, LARGEST + 1):
        for index in range(size):
            proof = inclusion_proof(TREE, index, size)
            assert list(proof) == TREE.path(index, 0, size)
            assert accepts_inclusion(list(proof), index=index, size=size)


def test_every_consistency_proof_is_that_of_the_definition() -> None:
    """For every pair of sizes: made as the RFC says, and accepted."""
    for size in range(1, LARGEST + 1):
        assert accepts_consistency([], 0, size)
        for old in range(1, size + 1):
            proof = consistency_proof(TREE, old, size)
            assert list(proof) == TREE.subproof(old, 0, size, known=True)
            assert accepts_consistency(list(proof), old, size)


@settings(max_examples=30)
@given(st.integers(1, 5000), st.data())
def test_larger_trees_follow_the_definition_too(size: int, data: st.DataObject) -> None:
    """Root, one inclusion proof and one consistency proof of any tree."""
    tree = Tree([leaf(number) for number in range(size)])
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    assert root_of(tree.leaves) == tree.root(0, size)
    assert list(inclusion_proof(tree, index, size)) == tree.path(index, 0, size)
    assert list(consistency_proof(tree, old, size)) == tree.subproof(old, 0, size, known=True)


# --- forgeries ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 9, 16, 21, 64, 65])
def test_a_forged_inclusion_proof_is_refused(size: int) -> None:
    """One hash altered, cut, dropped, added or swapped; another leaf, place, size or root (99)."""
    root = TREE.root(0, size)
    for index in range(size):
        good = inclusion_proof(TREE, index, size)
        for proof in forged(good):
            assert not accepts_inclusion(proof, index=index, size=size)
        assert not accepts_inclusion(list(good), index=index, size=size, of=index + 1)
        for other in {*range(size), size, -1} - {index}:
            with pytest.raises(AuditProofError):
                check_inclusion(leaf(index), index=other, size=size, root=root, proof=good)
        with pytest.raises(AuditProofError):
            check_inclusion(leaf(index), index=index, size=size, root=bytes(32), proof=good)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 9, 16, 21, 64, 65])
def test_a_forged_consistency_proof_is_refused(size: int) -> None:
    """One hash altered, cut, dropped, added or swapped; another old or new root (99)."""
    for old in range(size + 1):
        good = consistency_proof(TREE, old, size)
        for proof in forged(good):
            assert not accepts_consistency(proof, old, size)
        assert not accepts_consistency(list(good), old, size, old_root=bytes(32))
        if old:
            assert not accepts_consistency(list(good), old, size, root=bytes(32))
            assert not accepts_consistency(list(good), old, size, old_root=TREE.root(0, size + 1))


def test_bytes_do_not_move_from_one_hash_to_the_next() -> None:
    """Two hashes in a row look the same when one is longer and the other shorter."""
    root, next_hash = TREE.root(0, 4), TREE.root(4, 8)
    longer = {"old_root": root + next_hash[:1]}
    assert accepts_consistency([next_hash], 4, 8)
    assert not accepts_consistency([next_hash[1:]], 4, 8, **longer)
    with pytest.raises(AuditProofError):
        check_inclusion(
            leaf(0) + leaf(1)[:1], index=0, size=2, root=TREE.root(0, 2), proof=[leaf(1)[1:]]
        )


def test_a_tree_that_was_rewritten_continues_no_older_one() -> None:
    """One leaf changed before the old size: no proof that can be made is accepted (99)."""
    for changed in range(20):
        leaves = [leaf(number) for number in range(33)]
        leaves[changed] = leaf(999)
        other = Tree(leaves)
        proof = consistency_proof(other, 20, 33)
        assert not accepts_consistency(list(proof), 20, 33, root=other.root(0, 33))


def test_what_no_tree_has_is_an_error() -> None:
    """Leaves and sizes out of range, and frontiers that fit no tree."""
    for index, size in [(-1, 3), (3, 3), (0, 0)]:
        with pytest.raises(AuditProofError):
            inclusion_proof(TREE, index, size)
    for old, size in [(-1, 3), (4, 3)]:
        with pytest.raises(AuditProofError):
            consistency_proof(TREE, old, size)
        with pytest.raises(AuditProofError) as caught:
            check_consistency(old=old, old_root=EMPTY_ROOT, size=size, root=EMPTY_ROOT, proof=())
        assert caught.value.code == "audit:proof:invalid"
    for size, content in [(3, bytes(32)), (1, bytes(33)), (0, bytes(32)), (1, b"")]:
        with pytest.raises(AuditProofError):
            Frontier.decode(size, content)


def test_two_empty_trees_have_one_root() -> None:
    """No other root passes for a tree without leaves."""
    assert accepts_consistency([], 0, 0)
    assert not accepts_consistency([], 0, 0, root=bytes(32))
