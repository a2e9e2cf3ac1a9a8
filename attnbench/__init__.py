"""The instrument: see README.md."""
