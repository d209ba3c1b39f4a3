"""Every finding of an appraisal: how it weighs, what it means, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.verify.appraise import FINDINGS
from hwtrust.verify.enclaves.judge import ENCLAVE_FINDINGS
from hwtrust.verify.enclaves.kinds import FINDINGS as KIND_FINDINGS
from hwtrust.verify.platform import ALL_FINDINGS
from hwtrust.verify.policy import POLICY_FINDINGS
from hwtrust_backend.pages.explanations import explain
from hwtrust_docs.markdown import code, plain, target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwtrust.wire.messages import Severity


def documented() -> dict[str, tuple[Severity, str]]:
    """Every finding by its code, with its weight and its sentence."""
    found: dict[str, tuple[Severity, str]] = {}
    for part in (KIND_FINDINGS, ENCLAVE_FINDINGS, ALL_FINDINGS, POLICY_FINDINGS, FINDINGS):
        found |= part
    return dict(sorted(found.items()))


def page(_: Mapping[str, str]) -> list[str]:
    """A section for each subject, and an entry for each finding of it."""
    found = documented()
    lines = [f"There are {len(found)} findings.", ""]
    subject = None
    for name, (severity, sentence) in found.items():
        if (beginning := name.partition(":")[0]) != subject:
            subject = beginning
            lines += [f"## {beginning}", ""]
        words = explain(name)
        lines += [target("finding", name), f"### {code(name)}", ""]
        lines += [f"**{severity.value}:** {plain(sentence)}.", "", plain(words.meaning), ""]
        lines += [f"**What to do:** {plain(words.advice)}", ""]
    return lines
