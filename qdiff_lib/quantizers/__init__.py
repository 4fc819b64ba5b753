"""From real numbers to integers: grids, range finders, rounding, packing (Q-Diffusion, section 2)."""
