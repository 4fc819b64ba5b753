"""Post-training quantization by the paper's algorithm (Q-Diffusion, section 3.3): begin with ``quantize``."""
