"""What groups of devices are held to."""

from __future__ import annotations

from hwtrust_backend.policies.document import (
    DEFAULT_DOCUMENT,
    Policy,
    RotationRules,
    policy_schema,
    read_policy,
)
from hwtrust_backend.policies.models import (
    DEFAULT_GROUP,
    ActivePolicy,
    Group,
    StoredEvidence,
    StoredPolicy,
)
from hwtrust_backend.policies.service import (
    NOTHING,
    activate_policy,
    add_group,
    add_policy,
    add_signature,
    first_policy,
    group_of,
    list_groups,
    list_policies,
    policy_of,
    policy_version,
    versions_in_force,
)
from hwtrust_backend.policies.signing import Signers, load_signers, sign_policy
from hwtrust_backend.policies.windows import Window, next_open

__all__ = [
    "DEFAULT_DOCUMENT",
    "DEFAULT_GROUP",
    "NOTHING",
    "ActivePolicy",
    "Group",
    "Policy",
    "RotationRules",
    "Signers",
    "StoredEvidence",
    "StoredPolicy",
    "Window",
    "activate_policy",
    "add_group",
    "add_policy",
    "add_signature",
    "first_policy",
    "group_of",
    "list_groups",
    "list_policies",
    "load_signers",
    "next_open",
    "policy_of",
    "policy_schema",
    "policy_version",
    "read_policy",
    "sign_policy",
    "versions_in_force",
]
