"""The agent: one process that owns the device, and serves the applications beside it.

    application ──socket──▶ agent ──▶ TPM, key store, backend

service     the process: one thread owns the device; where to begin reading
keeper      what that thread does with an open device; timers, offline, backoff say when
inbox       how others hand it work: operations (the socket), waiter (the long poll), signals
watch       file events of layers
socket      the server: listening, permissions, protocol, methods, uses
notify      words to the service manager; hardening and footprint are about the process's memory
ports       what it meets of the world, so that tests bring their own
client      the application's side of the socket; it loads no TPM stack

Importing this package loads nothing.
"""
