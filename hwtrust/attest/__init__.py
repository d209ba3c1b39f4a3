"""The device side of attestation: evidence from what this machine has."""
