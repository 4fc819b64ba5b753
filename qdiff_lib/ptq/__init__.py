"""Post-training quantization, in the order of the paper's algorithm: begin with ``quantize``."""
