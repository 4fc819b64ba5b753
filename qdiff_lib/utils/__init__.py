"""Helpers for all other packages: files, hashes, locks, checked settings, progress bars."""
