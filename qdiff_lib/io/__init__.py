"""Models on disk: shipped ones, folders, the hub, and quantized networks as diffusers models."""
