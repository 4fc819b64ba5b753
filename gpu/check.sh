#!/usr/bin/env bash
# A minute and a half: what is there, the tests that need a GPU, and a first look at a training and a quantization.
source "$(dirname "$0")/common.sh"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
grep -m1 "model name" /proc/cpuinfo
run 75 tests env TRITON_INTERPRET=0 python3 -m pytest -rf --tb=short -q -n 12 --dist load -p no:cacheprovider -m cuda \
	tests/engines/test_triton_kernels.py tests/engines/test_triton_engine.py tests/ptq/test_on_gpu.py &
(
	run 60 cifar python3 training/train_cifar10.py --seconds 20 --batch-size 256 --data "$CARRIED/cifar" \
		--work build/first/cifar --out build/first/ddpm-cifar10
	run 60 w4a8 python3 gpu/measure_quantization.py build/first/ddpm-cifar10 --out "$OUT/w4a8" --samples 512 \
		--iterations 20 --images 500 --steps 50
) &
wait
show
