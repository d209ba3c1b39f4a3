"""What an explanation of a finding consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """A finding in words."""

    meaning: str
    advice: str


def nothing_said(table: str) -> Explanation:
    """That the policy's `table` is not complete."""
    return Explanation(
        f"The policy's table {table} leaves something out, and what a policy does not say refuses. "
        "Every device that it is about fails by this.",
        f"Add what is missing to {table} in the policy, try it in a dry run, and activate it.",
    )
