#!/usr/bin/env bash
# Two minutes: what is there, and a first look at a training, a quantization and the engines' speed.
source "$(dirname "$0")/common.sh"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
grep -m1 "model name" /proc/cpuinfo
run 60 speed python3 benchmarks/gpu_engines.py --only ddpm-fashion --batches 64 --out "$OUT/first_engines.json" &
(
	run 80 cifar python3 training/train_cifar10.py --seconds 15 --batch-size 512 --data "$CARRIED/cifar" \
		--work build/first/cifar --out build/first/ddpm-cifar10
	run 60 w4a8 python3 gpu/measure_quantization.py build/first/ddpm-cifar10 --out "$OUT/w4a8" --samples 512 \
		--iterations 20 --images 500 --steps 50
) &
wait
show
