"""Figures of the lessons: one module for each, of pure functions that return a described ``Figure``."""

from .style import show, styled

__all__ = ["show", "styled"]
