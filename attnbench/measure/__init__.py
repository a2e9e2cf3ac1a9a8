"""Probes: MACs, memory, time and the statistics of time. A probe is a function; it knows no mechanism."""
