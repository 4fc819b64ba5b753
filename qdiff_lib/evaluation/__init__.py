"""The quality of samples, and their error against full precision (Q-Diffusion, section 4)."""
