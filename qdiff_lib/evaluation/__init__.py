"""How good samples are, and how far quantization moved them (Q-Diffusion, section 4)."""
