"""Layers and attention that hold integers (Q-Diffusion, section 3.3.2)."""
