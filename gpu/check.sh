#!/usr/bin/env bash
# Two minutes: the tests that need a GPU, and the speed of calibration.
source "$(dirname "$0")/common.sh"
run 75 tests env TRITON_INTERPRET=0 python3 -m pytest -rf --tb=short -q -n 12 --dist load -p no:cacheprovider -m cuda \
	tests/engines/test_triton_kernels.py tests/engines/test_triton_engine.py tests/ptq/test_on_gpu.py
run 60 calibration python3 benchmarks/calibration_speed.py ${QUICK:---samples 1024 --iterations 20} \
	--out "$OUT/calibration_speed.json"
show
