"""An enclave or confidential VM as a device: its layers, its dynamic root, its key store.

    from hwtrust.enclave import Enclave, EnclaveConfig

    with Enclave.open(EnclaveConfig.load("enclave.toml"), token=token) as enclave:
        enclave.start()
        secret = enclave.keystore["payments/transport"]

api       the class `Enclave`; context is what its parts share
load      all of a start: measure, enrol or attest, open the root and the key store
attest    evidence to the backend, and its answer
rotate    the next root
roots     the rules by which a root is accepted: pure
measured  layers, registers and the log that explains them
kept      what is sealed to the disk, where the anchor can seal

There is no TPM here that would refuse: see docs/enclaves.md for who enforces what.
"""

from hwtrust.device.results import AttestResult, Condition, State
from hwtrust.enclave.api import Enclave
from hwtrust.enclave.config import EnclaveConfig

__all__ = ["AttestResult", "Condition", "Enclave", "EnclaveConfig", "State"]
