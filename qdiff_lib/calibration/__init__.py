"""Calibration sets, drawn from the full-precision sampler (Q-Diffusion, section 3.3.1)."""
