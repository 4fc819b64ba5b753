"""Execution of a quantized network in integers: a reference, OpenVINO on CPUs, Triton on NVIDIA GPUs."""
