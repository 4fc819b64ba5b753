#!/usr/bin/env bash
# One minute: what is there, the tests that need a GPU, and a first look at every training and speed.
source "$(dirname "$0")/common.sh"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$OUT/gpu.txt"
grep -m1 "model name" /proc/cpuinfo
run 60 doctor python3 -m qdiff_lib doctor &
run 125 tests env TRITON_INTERPRET=0 python3 -m pytest -v -n 10 --dist load -p no:cacheprovider -m cuda \
	tests/ptq/test_on_gpu.py tests/engines/test_triton_engine.py tests/engines/test_triton_kernels.py &
mkdir -p build/fashion build/cifar10
for kind in images-idx3 labels-idx1; do
	cp "data/fashion-mnist/t10k-$kind-ubyte.gz" "build/fashion/train-$kind-ubyte.gz"
done
run 110 ddpm python3 training/train_ddpm.py --seconds 60 --batch-size 512 --data build/fashion \
	--work build/first/ddpm --out build/first/ddpm-fashion &
(
	run 100 kl python3 training/train_autoencoder.py --kind kl --seconds 15 --batch-size 64 \
		--data "$CARRIED/emoji.tgz" --work build/first/kl-work --out build/first/kl
	run 100 sd python3 training/train_sd.py --seconds 30 --batch-size 256 --data "$CARRIED/emoji.tgz" \
		--autoencoder build/first/kl --work build/first/sd-work --out build/first/sd
) &
(
	run 100 cifar python3 training/train_cifar10.py --seconds 60 --batch-size 256 --data "$CARRIED/cifar" \
		--work build/first/cifar --out build/first/ddpm-cifar10
	run 50 w4a8 python3 gpu/measure_quantization.py build/first/ddpm-cifar10 --out "$OUT/w4a8" --samples 512 \
		--iterations 30 --images 500 --steps 50
) &
wait
for network in ddpm-fashion:256 ddpm-cifar10:64; do
	run 110 "speed-${network%:*}" python3 benchmarks/gpu_engines.py --only "${network%:*}" \
		--batches "${network#*:}" --meet build/first/meet 2 --out "$OUT/gpu_engines.json" &
done
wait
for log in "$OUT"/*.log; do
	echo "== $log"
	tail -c 1200 "$log" | tr '\r' '\n' | tail -n 12
done
