#!/usr/bin/env bash
# Two minutes: integers against bf16. The networks compile beside each other and are measured one by one.
source "$(dirname "$0")/common.sh"
LIMIT=${LIMIT:-120}
NETWORKS=${NETWORKS:-ddpm-fashion:256 ddpm-cifar10:64 sd-v1-4:8}
rm -rf build/meet
for network in $NETWORKS; do
	run "$LIMIT" "speed-${network%:*}" python3 benchmarks/gpu_engines.py --only "${network%:*}" \
		--batches "${network#*:}" --meet build/meet "$(wc -w <<<"$NETWORKS")" --out "$OUT/gpu_engines.json" &
done
wait
show
