"""Hardware anchors beside the TPM, seen from inside: enclaves and confidential VMs."""
