"""The agent: one process that owns the device, and serves the applications beside it.

    application ──socket──▶ agent ──▶ TPM, key store, backend

`client` is the application's side; it loads no TPM stack. Importing this package
loads nothing.
"""
