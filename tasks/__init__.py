"""Tasks that a backbone is tried on: one file each. Importing this imports none of them."""
