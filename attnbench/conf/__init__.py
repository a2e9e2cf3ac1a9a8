"""Presets, one YAML file each, on top of the schema in ``attnbench/config.py``."""
