"""Pages for people: what is shown of the fleet, and who is signed in.

    assets        style sheet, script and icon, named by their content
    rendering     templates, and how times and names are spelled
    protection    headers of every answer; whether a form is one of ours
    sessions      who is signed in
    attempts      signing in cannot be tried for ever
    oidc          people whom an identity provider knows
    explanations  every finding in words; of evidence: machine_, enclave_ and log_findings
    hardware      what an enclave's hardware vouches for, and what its kind cannot do
    fact_names    what those facts are called, and where they stand
    plots         pictures made of numbers, as SVG
    measured      what a device should have loaded and what it did
    changes       what differs between two policies

Rules:
1. Everything works without JavaScript; the script adds keys and a quiet refresh.
2. Nothing comes from another host, and no style or script stands in a page.
3. A GET changes nothing. A form is taken from its own session's pages alone.
4. What a page does it does through `hwtrust_backend.admin`, which checks the role.
"""

from __future__ import annotations
