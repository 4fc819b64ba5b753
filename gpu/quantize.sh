#!/usr/bin/env bash
# Quantize the CIFAR-10 network of gpu/train.sh, one recipe after the other, and draw images with each.
source "$(dirname "$0")/common.sh"
LIMIT=${LIMIT:-170}
QUANTIZATION=${QUANTIZATION:---samples 1024 --iterations 260 --steps 50 --images 2000}
W=${W:-build/gpu}
measure() { # measure NAME METHOD BITS
	# shellcheck disable=SC2086
	run "$LIMIT" "$1" python3 gpu/measure_quantization.py "$W/cifar10" --out "$W/quantized/$1" $QUANTIZATION \
		--method "$2" --bits $3
}
measure full none "32 32"
measure qdiffusion-w4a8 qdiffusion "4 8"
measure linear-w4a8 linear "4 8"
measure qdiffusion-w4a32 qdiffusion "4 32"
collect quantized
show
