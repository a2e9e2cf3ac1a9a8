"""The papers' tables beside what is measured here: per cell reported, measured, their ratio and a verdict.

:func:`~attnbench.tables.build.build` makes a table from reported numbers and measured ones; it measures nothing itself.
"""
