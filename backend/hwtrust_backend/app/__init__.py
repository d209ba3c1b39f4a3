"""HTTP: who is calling, over what, and what is answered."""
