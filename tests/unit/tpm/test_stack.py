"""The door to tpm2-pytss: what a boot does not load, and that nobody misses it."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys

from tpm2_pytss.types import TPM2B_PUBLIC

import hwtrust.tpm.stack
from hwtrust.verify.certificates import read_certificate
from simulators.ek_authority import EkAuthority, new_ek

BOOT = """
import json, sys
from hwtrust import Device, DeviceConfig
import hwtrust.device.boot, hwtrust.device.opening
loaded = sorted(sys.modules)
from cryptography import x509
print(json.dumps({"loaded": loaded, "real": hasattr(x509, "Name"), "file": x509.__file__}))
"""
WHOLE = "import tpm2_pytss"
AT_FIRST_ASKING = """
from hwtrust.tpm import stack
import sys, tpm2_pytss
assert not {"tpm2_pytss.FAPI", "tpm2_pytss.policy"} & sys.modules.keys()
assert not hasattr(tpm2_pytss, "nothing")
"""
NAMES = """
import json
print(json.dumps({name: str(type(value)) for name, value in vars(tpm2_pytss).items()}))
"""
AMIDST = """
import sys
from hwtrust.tpm import stack
with stack._without_x509():
    from cryptography import x509
    from cryptography.x509 import oid
    print(type(x509).__name__, x509.Name.__name__, oid.NameOID.COMMON_NAME.dotted_string)
print(type(sys.modules["cryptography.x509"]).__name__)
"""


def python(program: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return done.stdout


def test_a_boot_loads_neither_x509_nor_features_nor_the_errors_of_a_backend() -> None:
    """A fifth of its time; the real module is there for whoever imports it afterwards."""
    found = json.loads(python(BOOT))
    loaded = set(found["loaded"])
    assert "tpm2_pytss.ESAPI" in loaded
    assert loaded.isdisjoint({"cryptography.x509", "hwtrust.errors.admin", "hwtrust.errors.audit"})
    assert loaded.isdisjoint({"tpm2_pytss.FAPI", "tpm2_pytss.policy", "tempfile", "shutil"})
    assert found["real"]
    assert found["file"].endswith("x509/__init__.py")


def test_tpm2_pytss_reads_certificates_all_the_same() -> None:
    """Whoever uses it for more than hwtrust does finds it whole."""
    assert hwtrust.tpm.stack.ESAPI is not None
    der = EkAuthority.new().issue(new_ek())
    public = TPM2B_PUBLIC.from_pem(ssl.DER_cert_to_PEM_cert(der).encode())
    point = read_certificate(der).key.public_numbers()
    assert bytes(public.publicArea.unique.ecc.x) == point.x.to_bytes(32, "big")  # type: ignore[union-attr]


def test_tpm2_pytss_has_its_features_for_whoever_asks() -> None:
    """Those that are installed, by the names that it gives them itself."""
    whole, asked = (json.loads(python(first + NAMES)) for first in (WHOLE, AT_FIRST_ASKING))
    assert {"FAPI", "policy"} & whole.keys()
    assert asked == whole


def test_another_thread_that_comes_amidst_finds_all_that_it_seeks() -> None:
    """Names and modules of X.509, though they are not loaded yet."""
    assert python(AMIDST).splitlines() == ["_Later Name 2.5.4.3", "module"]
