"""Recipes: how to quantize a model, as values. This package needs no torch."""
