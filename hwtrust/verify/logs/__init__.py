"""What event logs prove: they are replayed into quoted values, and appraised by digests."""
