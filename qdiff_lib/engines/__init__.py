"""Execution of a quantized network in integers: a reference, OpenVINO on CPUs, Triton on NVIDIA GPUs."""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # OpenVINO then reports nothing to its makers
