"""Test tools: software TPMs with EK certificates, faults, a backend, and enrolled devices.

With hwtrust installed, pytest knows the fixtures; there is nothing to import
for them. `tpm` is a new TPM for each test, made in about 30 ms:

    from tpm2_pytss import ESAPI, ESYS_TR

    def test_a_reboot_resets_pcr_16(tpm):
        with ESAPI(tpm.tcti) as esapi:
            esapi.pcr_event(ESYS_TR.PCR16, b"measured")
        tpm.reboot()
        with ESAPI(tpm.tcti) as esapi:
            assert not any(bytes(esapi.pcr_read("sha256:16")[2][0]))

docs/testing.md shows them all. The modules:

- `plugin`, `fixtures`: `tpm`, `tpm_factory`, `tpm_vendor`; `backend`, `enrolled_device`
  and its factory; environment variables;
- `swtpm`: one software TPM: start, reboot, suspend, power cut, lockout, faults;
- `manufacture`: a TPM vendor: EK certificates under a test root;
- `device`, `site`: a device in the field; a device with its backend, not enrolled yet;
- `faults`: count commands, break connections, alter bytes, answer for the TPM;
- `interposer`, `rsa_only`: who stands on the wire, and takes the elliptic curves away;
- `hardware`: what tests may do to a TPM that is somebody's;
- `bus`, `firmware`: the TPM commands that set all this up, as bytes.

`faults`, `device`, `site` and `hardware` need the `device` extra (tpm2-pytss), `site`
and `device` hwtrust-backend. `swtpm` runs the program of that name. No fixture is a stub:
a test that passes here has talked to a TPM.
"""
