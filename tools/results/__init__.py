"""RESULTS.md and its plots, made from ``data/recorded`` and ``data/paper``: ``python -m tools.results``."""
