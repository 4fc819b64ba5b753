#!/usr/bin/env bash
# Four minutes, at once: train ddpm-fashion and sd-emoji; quantize the CIFAR-10 network that gpu/start.sh trains;
# compile the networks whose speeds are measured when all else has ended; run the fast tests on this machine's
# processor. All models are collected.
source "$(dirname "$0")/common.sh"
TRAIN=${TRAIN:-165}      # seconds of the two trainings
SPEEDS=${SPEEDS:-50}     # seconds after that, until speeds must have been measured
BATCH=${BATCH:-512}
QUANTIZATION=${QUANTIZATION:---samples 1024 --iterations 100 --steps 50 --images 1500}
TESTS=${TESTS:-tests/quantizers tests/modules tests/ptq tests/graph tests/recipes tests/calibration tests/diffusion}
NETWORKS=${NETWORKS:-ddpm-fashion:256 ddpm-cifar10:64 sd-v1-4:8}
FIRST=${FIRST:-/tmp/first-training}
W=build/gpu-train
rm -rf "$W"
mkdir -p "$W/cifar10"
run "$((TRAIN + 15))" ddpm-fashion python3 training/train_ddpm.py --seconds "$((TRAIN - 22))" --batch-size "$BATCH" \
	--data "$CARRIED/fashion" --work "$W/fashion-work" --out "$W/ddpm-fashion" &
run "$((TRAIN + 15))" sd-emoji python3 training/train_sd.py --seconds "$((TRAIN - 30))" --batch-size "$BATCH" \
	--data "$CARRIED/emoji.tgz" --autoencoder "$CARRIED/emoji-kl" --work "$W/sd-work" --out "$W/sd-emoji" &
measure() { # measure NAME METHOD BITS
	# shellcheck disable=SC2086
	run "$((TRAIN + 25 - SECONDS))" "$1" python3 gpu/measure_quantization.py "$FIRST/ddpm-cifar10" \
		--out "$W/cifar10/$1" $QUANTIZATION --method "$2" --bits $3 ${DEVICE:+--device $DEVICE}
}
(
	while [ ! -e "$FIRST/done" ]; do sleep 0.5; done
	measure full none "32 32" &
	measure linear-w4a8 linear "4 8" &
	measure qdiffusion-w4a8 qdiffusion "4 8" &
	measure qdiffusion-w4a32 qdiffusion "4 32" &
	wait
) &
quantizations=$!
(
	sleep "${WAIT:-$((TRAIN - 65))}"
	for network in $NETWORKS; do
		TORCHINDUCTOR_COMPILE_THREADS=4 run "$((TRAIN + SPEEDS - SECONDS))" "speed-${network%:*}" python3 \
			benchmarks/gpu_engines.py ${QUICK:---only "${network%:*}" --batches "${network#*:}"} \
			--meet "$W/meet" "$(($(wc -w <<<"$NETWORKS") + 1))" --out "$OUT/gpu_engines.json" &
	done
	wait
) &
speeds=$!
run 60 tests-cuda env TRITON_INTERPRET=0 python3 -m pytest -o addopts= -q -rf --tb=short -n 4 -p no:cacheprovider \
	-m cuda tests/ptq &
# shellcheck disable=SC2086
run "$((TRAIN - 10))" tests nice -n 19 python3 -m pytest -o addopts= -q -rf --tb=line -n 4 -p no:cacheprovider \
	-m "not slow and not cuda" $TESTS &
wait $quantizations
while pgrep -f "training/train_" >/dev/null && [ $SECONDS -lt $((TRAIN + 15)) ]; do
	sleep 0.5
done
echo "speeds are measured from $SECONDS s on"
mkdir -p "$W/meet"
touch "$W/meet/others.ready"
tar -cz -f - -C "$FIRST" ddpm-cifar10 -C "$PWD/$W" cifar10 ddpm-fashion sd-emoji | split -b 16000000 - "$OUT/models.tgz."
wait $speeds
run 30 calibration python3 benchmarks/calibration_speed.py ${QUICK:---samples 1024 --iterations 20} \
	--out "$OUT/calibration_speed.json"
cp "$FIRST"/*.log "$OUT"
TAIL=${TAIL:-2500} show >"$OUT/logs.txt"
for log in "$OUT"/*.log; do
	echo "== ${log##*/}"
	tail -c 500 "$log" | tr '\r' '\n' | tail -n 3
done
rm -f "$OUT"/*.log
wait
