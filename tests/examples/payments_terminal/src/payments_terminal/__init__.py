"""A payment terminal that signs with a key which its TPM guards."""

from payments_terminal.terminal import OutOfServiceError, Terminal

__all__ = ["OutOfServiceError", "Terminal"]
