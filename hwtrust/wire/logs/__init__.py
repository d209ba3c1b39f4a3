"""Event logs that others write: the firmware's, and that of IMA."""
