"""The TPM: discovery, connection, commands, sessions, policies. The only importer of tpm2-pytss."""
