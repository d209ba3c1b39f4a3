"""Evidence of enclaves and confidential virtual machines, as it comes: bytes in, fields out."""
