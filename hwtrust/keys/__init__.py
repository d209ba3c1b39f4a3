"""The key store, and the key that the dynamic root gives it.

unseal    the TPM → dynamic root; needs the TPM stack, so import it by its name
kek       dynamic root → key encryption key → data key; erasable secrets
contents  what an open store holds in memory, and its authentication
database  the SQLite file: permissions, structure, transactions
keystore  named secrets, opened as a whole, rotated with the root
"""

from __future__ import annotations

from hwtrust.keys.contents import Entry
from hwtrust.keys.kek import Kek, derive_kek
from hwtrust.keys.keystore import KeyStore

__all__ = ["Entry", "Kek", "KeyStore", "derive_kek"]
