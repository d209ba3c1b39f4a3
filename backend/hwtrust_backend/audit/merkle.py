r"""Merkle trees of RFC 9162: roots, inclusion proofs, consistency proofs.

    leaf = SHA-256(0x00 | entry)      node = SHA-256(0x01 | left | right)

           root(5)
          /       \
       (2,0)      (0,4)        a node (level, number) is the root of the leaves
      /     \                  number * 2^level up to (number + 1) * 2^level
   (1,0)   (1,1)
   /  \    /  \
  0    1  2    3

Pure: bytes in, bytes out. Where the hashes of a large tree are stored is the
caller's business; what makes proofs asks for nodes of full subtrees only.

Rules:
1. Leaves and nodes are hashed with different first bytes: no node can be passed
   off as a leaf.
2. A proof is used up to its last hash. One that is too short, too long, or has
   one bit changed is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from hwtrust.errors import AuditProofError

HASH_SIZE: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of a tree without leaves (RFC 9162 §2.1.1)."""

Nodes = Callable[[int, int], bytes]
"""Gives the hash of the node (level, number); the subtree below it is full."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf. RFC 9162 §2.1.1."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node above two others. RFC 9162 §2.1.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree's size and the roots of its full subtrees, largest first: enough to append to it.

    A tree of 13 leaves has three of them, of 8, 4 and 1 leaves.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self._size = size
        self._hashes = list(hashes)
        if size < 0 or len(self._hashes) != size.bit_count():
            raise AuditProofError("a tree's frontier does not fit its size", size=size)

    @classmethod
    def decode(cls, size: int, content: bytes) -> Frontier:
        """What `encode` gave.

        Raises:
            AuditProofError: the content does not fit a tree of `size` leaves.
        """
        if len(content) % HASH_SIZE:
            raise AuditProofError("a tree's frontier is cut short", size=size)
        return cls(size, split(content))

    def encode(self) -> bytes:
        """The hashes in a row, 32 bytes each."""
        return b"".join(self._hashes)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The roots of the full subtrees, largest first."""
        return tuple(self._hashes)

    def append(self, leaf: bytes) -> None:
        """Add a leaf's hash."""
        hashes, size = self._hashes, self._size
        while size & 1:
            leaf = hashlib.sha256(b"\x01" + hashes.pop() + leaf).digest()
            size >>= 1
        hashes.append(leaf)
        self._size += 1

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        if not self._hashes:
            return EMPTY_ROOT
        root = self._hashes[-1]
        for left in reversed(self._hashes[:-1]):
            root = node_hash(left, root)
        return root


def split(content: object) -> list[bytes]:
    """Hashes in a row, one by one; none where this is no row of bytes, as SQLite may keep it."""
    if not isinstance(content, bytes):
        return []
    return [content[at : at + HASH_SIZE] for at in range(0, len(content), HASH_SIZE)]


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over hashes of leaves."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def subtree(nodes: Nodes, begin: int, end: int) -> bytes:
    """The root of the leaves from `begin` up to `end`, as RFC 9162 §2.1.1 defines it.

    `begin` is where a subtree of that size may begin in a tree: a multiple of
    the least power of two that is not below `end - begin`.
    """
    size = end - begin
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return nodes(level, begin >> level)
    middle = begin + _split_point(size)
    return node_hash(subtree(nodes, begin, middle), subtree(nodes, middle, end))


def inclusion_proof(nodes: Nodes, index: int, size: int) -> tuple[bytes, ...]:
    """What leads from leaf `index`, counted from 0, to the root of `size` leaves.

    PATH(m, D_n), RFC 9162 §2.1.3.1.
    """
    if not 0 <= index < size:
        raise AuditProofError("there is no such leaf in a tree of that size", index=index)
    path, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + _split_point(end - begin)
        if index < middle:
            path.append(subtree(nodes, middle, end))
            end = middle
        else:
            path.append(subtree(nodes, begin, middle))
            begin = middle
    return tuple(reversed(path))


def consistency_proof(nodes: Nodes, old: int, size: int) -> tuple[bytes, ...]:
    """What shows that a tree of `size` leaves begins with the tree of `old` leaves.

    PROOF(m, D_n), RFC 9162 §2.1.4.1. Empty where `old` is 0 or `size`.
    """
    if not 0 <= old <= size:
        raise AuditProofError("the old tree is larger than the new one", old=old, size=size)
    path: list[bytes] = []
    if old in {0, size}:
        return ()
    begin, end, known = 0, size, True
    while end != old:
        middle = begin + _split_point(end - begin)
        if old <= middle:
            path.append(subtree(nodes, middle, end))
            end = middle
        else:
            path.append(subtree(nodes, begin, middle))
            begin, known = middle, False
    if not known:
        path.append(subtree(nodes, begin, end))
    return tuple(reversed(path))


def check_inclusion(
    leaf: bytes, *, index: int, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Verify that `leaf` is leaf `index` of the tree with that size and root.

    RFC 9162 §2.1.3.2; the numbers in the comments are its steps.

    Raises:
        AuditProofError: it is not, or the proof is another one's.
    """
    _check_hashes(leaf, root, *proof)
    if not 0 <= index < size:  # (1)
        raise AuditProofError("there is no such leaf in a tree of that size", index=index)
    found = leaf  # (3)
    for step, left in zip(proof, _sides(index, size - 1, len(proof)), strict=True):  # (2), (4)
        found = node_hash(step, found) if left else node_hash(found, step)
    if found != root:  # (5)
        raise AuditProofError("the proof does not lead from the record to the root", index=index)


def check_consistency(
    *, old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Verify that the tree of `size` leaves begins with the tree of `old` leaves.

    RFC 9162 §2.1.4.2; the numbers in the comments are its steps. An empty tree
    begins every other one.

    Raises:
        AuditProofError: it does not, or the proof is another one's.
    """
    _check_hashes(old_root, root, *proof)
    if not 0 <= old <= size:
        raise AuditProofError("the old tree is larger than the new one", old=old, size=size)
    if old in {0, size}:
        expected = {EMPTY_ROOT if old == 0 else root} | ({root} if old == size else set())
        if proof or expected != {old_root}:
            raise AuditProofError("two trees of the same size have other roots", old=old)
        return
    steps = list(proof)
    if old & (old - 1) == 0:  # (2): `old` is a power of two
        steps.insert(0, old_root)
    if not steps:  # (1)
        raise AuditProofError("a consistency proof is empty", old=old)
    fn, sn = old - 1, size - 1  # (3)
    while fn & 1:  # (4)
        fn, sn = fn >> 1, sn >> 1
    fr = sr = steps[0]  # (5)
    rest = steps[1:]
    for step, left in zip(rest, _sides(fn, sn, len(rest)), strict=True):  # (6)
        if left:
            fr, sr = node_hash(step, fr), node_hash(step, sr)
        else:
            sr = node_hash(sr, step)
    if fr != old_root or sr != root:  # (7)
        raise AuditProofError("the new tree does not continue the old one", old=old, size=size)


def _sides(fn: int, sn: int, count: int) -> list[bool]:
    """Whether each hash of a proof stands on the left, from leaf `fn` up, `sn` being the last.

    The walk that both verifications have in common: §2.1.3.2 (4) and §2.1.4.2 (6).

    Raises:
        AuditProofError: the way to the root has not `count` steps.
    """
    sides = []
    while sn:
        left = bool(fn & 1) or fn == sn
        while left and not fn & 1 and fn != 0:
            fn, sn = fn >> 1, sn >> 1
        sides.append(left)
        fn, sn = fn >> 1, sn >> 1
    if len(sides) != count:
        raise AuditProofError("a proof is longer or shorter than the way to the root", hashes=count)
    return sides


def _split_point(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_hashes(*hashes: bytes) -> None:
    if any(len(item) != HASH_SIZE for item in hashes):
        raise AuditProofError("a hash in a proof has not 32 bytes")
