"""Is evidence authentic, and is it acceptable? Pure: no I/O, and time is an argument."""
