"""Attention mechanisms: one paper, one file. Names are read from the source; importing this imports none of them."""
