"""The corpus of quotes that others made, one folder each, as cases for tests.

Where the corpus is, and that it may be absent, is as in conftest.py; the cases are
needed before any fixture is.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hwtrust.wire.algorithms import Alg, alg_from_name
from hwtrust.wire.structures import PcrSelection

ROOT = Path(__file__).resolve().parents[2]
QUOTES = Path(os.environ.get("HWTRUST_VECTORS", ROOT.parent / "shared" / "vectors")) / "tpm-quotes"


@dataclass(frozen=True)
class Case:
    """One folder: a quote, what goes with it, and what is to be expected."""

    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        """case.json."""
        facts: dict[str, Any] = json.loads((self.folder / "case.json").read_text())
        return facts

    @property
    def expected(self) -> dict[str, str]:
        """What the collection says of signature, pcr_digest and nonce."""
        expected: dict[str, str] = self.facts["expected"]
        return expected

    def expects(self, part: str, verdict: str) -> bool:
        """Whether the collection says `verdict` of `part`."""
        return self.expected.get(part, "").startswith(verdict)

    @property
    def message_file(self) -> Path:
        """The TPMS_ATTEST."""
        return self.folder / "attest.bin"

    @property
    def signature_file(self) -> Path:
        """The signature, in the form in which it came."""
        (found,) = self.folder.glob("signature.*")
        return found

    @property
    def key_files(self) -> list[Path]:
        """The key in every form that is known of it."""
        names = ("ak.pem", "ak.tpm2b_public", "ak.tpmt_public")
        return [self.folder / name for name in names if (self.folder / name).exists()]

    @property
    def pcr_files(self) -> list[Path]:
        """The PCR values in every form in which they came."""
        names = ("pcrs.json", "pcrs.tools.bin", "quote.pcrs", "quotepcr.out")
        return [self.folder / name for name in names if (self.folder / name).exists()]

    @property
    def nonce(self) -> bytes | None:
        """The nonce that the verifier sent, if it is known."""
        file = self.folder / "nonce.hex"
        return bytes.fromhex(file.read_text()) if file.exists() else None

    @property
    def selection(self) -> PcrSelection:
        """The PCRs that the collection's own decoder found in the quote."""
        return PcrSelection(
            tuple(
                (alg_from_name(bank["hash"]), tuple(bank["pcrs"]))
                for bank in self.facts["attest"]["pcrSelect"]
            )
        )

    @property
    def needs_sha1(self) -> bool:
        """Whether the quote rests on SHA-1: its signature, or its only bank."""
        info = self.facts.get("signature_info", {})
        return info.get("hash") == "sha1" or [bank for bank, _ in self.selection.banks] == [
            Alg.SHA1
        ]


def quote_cases() -> list[Case]:
    """Every case of the corpus; none if it is not there."""
    return [Case(file.parent) for file in sorted(QUOTES.glob("*/case.json"))]
