"""Test tools: software TPMs with EK certificates, and faults on the way to them.

With hwtrust installed, pytest knows the fixtures; there is nothing to import
for them. `tpm` is a new TPM for each test, made in about 30 ms:

    from tpm2_pytss import ESAPI, ESYS_TR

    def test_a_reboot_resets_pcr_16(tpm):
        with ESAPI(tpm.tcti) as esapi:
            esapi.pcr_event(ESYS_TR.PCR16, b"measured")
        tpm.reboot()
        with ESAPI(tpm.tcti) as esapi:
            assert not any(bytes(esapi.pcr_read("sha256:16")[2][0]))

The modules:

- `plugin`: the fixtures `tpm`, `tpm_factory`, `tpm_vendor`; environment variables;
- `swtpm`: one software TPM: start, reboot, suspend, power cut, lockout;
- `manufacture`: a TPM vendor: EK certificates under a test root;
- `faults`: count commands, break connections, alter bytes, answer for the TPM;
- `bus`, `firmware`: the TPM commands that set all this up, as bytes.

Only `faults` needs the `device` extra (tpm2-pytss). `swtpm` runs the program of
that name. No fixture is a stub: a test that passes here has talked to a TPM.
"""
