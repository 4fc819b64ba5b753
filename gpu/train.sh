#!/usr/bin/env bash
# Four minutes, at once: train a CIFAR-10 network and quantize it; compile the networks whose speeds are measured
# when all else has ended; run the fast tests on this machine's processor. Then collect everything, also what
# gpu/start_trainings.sh started.
source "$(dirname "$0")/common.sh"
TRAIN=${TRAIN:-115}      # seconds of the CIFAR-10 training
QUANTIZE=${QUANTIZE:-70} # seconds in which its network is quantized
SPEEDS=${SPEEDS:-40}     # seconds for measuring speeds at the end
BATCH=${BATCH:-512}
QUANTIZATION=${QUANTIZATION:---samples 1024 --iterations 120 --steps 50 --images 2000}
TESTS=${TESTS:-tests/quantizers tests/modules tests/ptq tests/graph tests/recipes tests/calibration tests/diffusion}
HOME_OF_TRAININGS=${HOME_OF_TRAININGS:-/tmp/trainings}
LONG=$((TRAIN + QUANTIZE)) END=$((TRAIN + QUANTIZE + SPEEDS))
W=build/gpu-train
rm -rf "$W"
mkdir -p "$W/cifar10"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 
measure() { # measure NAME METHOD BITS
	# shellcheck disable=SC2086
	run "$((QUANTIZE + 15))" "$1" python3 gpu/measure_quantization.py "$W/ddpm-cifar10" --out "$W/cifar10/$1" \
		$QUANTIZATION --method "$2" --bits $3 ${DEVICE:+--device $DEVICE}
}
(
	run "$((TRAIN + 10))" ddpm-cifar10 python3 training/train_cifar10.py --seconds "$((TRAIN - 12))" \
		--batch-size "$BATCH" --data "$CARRIED/cifar" --work "$W/cifar-work" --out "$W/ddpm-cifar10"
	measure full none "32 32" &
	measure linear-w4a8 linear "4 8" &
	measure qdiffusion-w4a8 qdiffusion "4 8" &
	measure qdiffusion-w4a32 qdiffusion "4 32" &
	wait
) &
cifar=$!
(
	sleep "${WAIT:-$((TRAIN - 10))}"
	for network in ${NETWORKS:-ddpm-fashion:256 ddpm-cifar10:64 sd-v1-4:8}; do
		TORCHINDUCTOR_COMPILE_THREADS=4 run "$((END - SECONDS))" "speed-${network%:*}" python3 \
			benchmarks/gpu_engines.py ${QUICK:---only "${network%:*}" --batches "${network#*:}"} \
			--meet "$W/meet" "$(($(wc -w <<<"${NETWORKS:-1 2 3}") + 1))" --out "$OUT/gpu_engines.json" &
	done
	wait
) &
speeds=$!
# shellcheck disable=SC2086
run "$((LONG - 10))" tests nice -n 19 python3 -m pytest -o addopts= -q -rf --tb=line -n 5 -p no:cacheprovider \
	-m "not slow and not cuda" $TESTS &
wait $cifar
while pgrep -f "training/train_" >/dev/null && [ $SECONDS -lt $((LONG + 15)) ]; do
	sleep 1
done
echo "speeds are measured from $SECONDS s on"
mkdir -p "$W/meet"
touch "$W/meet/others.ready"
wait $speeds
cp "$HOME_OF_TRAININGS"/*.log "$OUT" 2>/dev/null
TAIL=${TAIL:-2500} show >"$OUT/logs.txt"
for log in "$OUT"/*.log; do
	echo "== ${log##*/}"
	tail -c 500 "$log" | tr '\r' '\n' | tail -n 3
done
rm -f "$OUT"/*.log
tar -cz -f - -C "$W" ddpm-cifar10 cifar10 -C "$HOME_OF_TRAININGS" ddpm-fashion sd-emoji emoji-kl/training.json |
	split -b 16000000 - "$OUT/models.tgz."
wait
