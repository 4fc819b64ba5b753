"""Loading and saving: shipped models, local folders, the hub, and quantized checkpoints."""
