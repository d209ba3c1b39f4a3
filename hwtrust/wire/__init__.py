"""What travels and what is kept: frozen types, their codecs, and policies with offline digests."""
