"""Grading of submitted notebooks: answers run in a sandbox, and only data leaves it."""
