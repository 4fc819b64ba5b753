"""Recipes: how a model is quantized, as values. No torch is needed here."""
