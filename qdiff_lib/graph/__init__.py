"""The structure of a UNet: its units and concatenations, its inputs, its cost."""
