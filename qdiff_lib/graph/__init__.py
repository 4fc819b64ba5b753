"""What a UNet is made of: its units and concatenations, its inputs, its cost."""
