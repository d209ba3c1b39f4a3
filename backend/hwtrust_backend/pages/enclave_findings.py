"""Findings about enclaves and realms, in words: sgx, nitro, cca."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hwtrust_backend.pages.wording import Explanation, nothing_said

if TYPE_CHECKING:
    from collections.abc import Mapping

SGX: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "sgx:absent": nothing_said("sgx"),
        "sgx:tcb": Explanation(
            "By Intel's signed lists the platform or its quoting enclave is in a state that the "
            "policy does not take: out of date, to be configured, or revoked.",
            "Have the host's firmware updated; or add the status to sgx.accepted_tcb_statuses, "
            "once you have read its advisories.",
        ),
        "sgx:advisory": Explanation(
            "One of Intel's security advisories applies to this platform, and the policy does "
            "not accept it.",
            "Read the advisory that is named. Have the firmware updated, or add its number to "
            "sgx.accepted_advisories.",
        ),
        "sgx:collateral": Explanation(
            "The lists by which the platform was judged are of an older evaluation than the "
            "policy takes.",
            "Fetch newer collateral for this platform and add it here.",
        ),
        "sgx:platform": Explanation(
            "The platform's certificate names a property that the policy does not allow: that "
            "processors may be added, keys are cached, or simultaneous threads run; or does not "
            "say.",
            "Move the enclave to another host, or allow it in the policy (sgx.allow_…).",
        ),
        "sgx:debug": Explanation(
            "The enclave runs in debug mode: its host reads and changes its memory, and nothing "
            "that it says is sure.",
            "Start it again as a production enclave. Rotate whatever it has held.",
        ),
        "sgx:attributes": Explanation(
            "The enclave was started with attributes that the policy does not take.",
            "Compare the value with what your build sets; change sgx.attributes if you mean it.",
        ),
        "sgx:config-id": Explanation(
            "The enclave was started with another configuration than the policy names.",
            "Compare it with what your deployment sets; add it to sgx.config_id.",
        ),
        "sgx:config-svn": Explanation(
            "The enclave's configuration has a lower security version than the policy takes.",
            "Deploy the newer configuration, or lower sgx.config_svn_floor.",
        ),
        "sgx:isv-prod-id": Explanation(
            "The enclave is of the right vendor, but says that it is another product.",
            "See which enclave was deployed; add it to sgx.isv_prod_id if it is meant.",
        ),
        "sgx:isv-svn": Explanation(
            "The enclave has a lower security version than the policy takes, as a rule because "
            "of a known weakness.",
            "Deploy the newer enclave, or lower sgx.isv_svn_floor.",
        ),
        "sgx:misc-select": Explanation(
            "The enclave was started with extended features that the policy does not take.",
            "Compare the value with what your build sets; change sgx.misc_select if you mean it.",
        ),
        "sgx:mr-enclave": Explanation(
            "The enclave's code and data at its start have another digest than those that the "
            "policy names: it is another enclave.",
            "If it was rebuilt on purpose, add its MRENCLAVE to sgx.mr_enclave. If not, find out "
            "who started it.",
        ),
        "sgx:mr-signer": Explanation(
            "The enclave was signed by a vendor whose key the policy does not name.",
            "Find out whose enclave it is. Add the key's digest to sgx.mr_signer if it is yours.",
        ),
        "sgx:xfrm": Explanation(
            "The enclave was started with other processor features than the policy names.",
            "Compare the value with what your host sets; change sgx.xfrm if you mean it.",
        ),
    }
)

NITRO: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "nitro:absent": nothing_said("nitro"),
        "nitro:debug": Explanation(
            "The enclave runs in debug mode: the instance on which it runs reads its console, and "
            "its image is not measured.",
            "Start it again without debug mode. Rotate whatever it has held.",
        ),
        "nitro:pcr": Explanation(
            "A PCR of the enclave holds a value that the policy does not name: its image, its "
            "kernel, its application or its signer is another.",
            "If the image was rebuilt on purpose, add the value to nitro.pcrs. If not, find out "
            "who started this enclave.",
        ),
        "nitro:pcr-missing": Explanation(
            "The policy names a PCR that is not in the enclave's document.",
            "See whether the enclave is to extend that PCR, or take it out of nitro.pcrs.",
        ),
        "nitro:pcr-unlisted": Explanation(
            "A PCR of the enclave holds a value, and the policy names neither values for it nor "
            "that anything goes.",
            "Look at the value, and name it under nitro.pcrs in the policy.",
        ),
        "nitro:age": Explanation(
            "The enclave's document was made longer ago than the policy takes; or one of both "
            "clocks is wrong.",
            "Check this backend's clock. If it is right, see why the enclave sends old documents.",
        ),
    }
)

CCA: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "cca:absent": nothing_said("cca"),
        "cca:lifecycle": Explanation(
            "The platform is not in its secured state: it is being assembled, debugged or "
            "retired, and whoever has it may see into realms.",
            "Take the realm off that platform.",
        ),
        "cca:implementation": Explanation(
            "The platform is of an implementation that the policy does not name.",
            "Add it to cca.implementation_ids if you run such hosts, or move the realm.",
        ),
        "cca:config": Explanation(
            "The platform is configured otherwise than the policy names.",
            "Compare the value with what the platform's maker says; add it to cca.configs.",
        ),
        "cca:component": Explanation(
            "A part of the platform's firmware has a measurement that the policy does not name.",
            "If the firmware was updated, add it to cca.sw_components. If not, move the realm.",
        ),
        "cca:component-missing": Explanation(
            "The platform does not report a part of its firmware that the policy lists.",
            "See which firmware the platform runs; correct cca.sw_components, or move the realm.",
        ),
        "cca:signer": Explanation(
            "A part of the platform's firmware was signed by somebody whom the policy does not "
            "name.",
            "Find out whose firmware it is. Add the signer to cca.signer_ids if it is right.",
        ),
        "cca:rim": Explanation(
            "What the realm was started with has another digest than those that the policy names.",
            "If the image was changed on purpose, add its measurement to cca.rims. If not, find "
            "out who started this realm.",
        ),
        "cca:rem": Explanation(
            "An extensible measurement of the realm, of what was loaded after its start, holds a "
            "value that the policy does not name.",
            "If what is measured there was updated, add the value to cca.rems. If not, examine "
            "the realm.",
        ),
        "cca:rpv": Explanation(
            "Whoever started the realm gave it another personalization value than the policy "
            "names.",
            "Compare it with what your orchestration sets; add it to cca.rpvs.",
        ),
        "cca:claim": Explanation(
            "The token says something for which this version of hwtrust has no name, and which "
            "may speak against the realm.",
            "See whether a newer version of hwtrust knows it; or name the claim in "
            "cca.unsafe_unknown_claims.",
        ),
    }
)
