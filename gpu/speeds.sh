#!/usr/bin/env bash
# Three minutes: integers against bf16. The networks compile beside each other. Then each is measured alone.
source "$(dirname "$0")/common.sh"
LIMIT=${LIMIT:-180}
NETWORKS=${NETWORKS:-ddpm-fashion:256 ddpm-cifar10:256 sd-v1-4:8}
rm -rf "${W:-build/gpu}/meet"
for network in $NETWORKS; do
	run "$LIMIT" "speed-${network%:*}" python3 benchmarks/gpu_engines.py \
		${QUICK:---only "${network%:*}" --batches "${network#*:}"} \
		--meet "${W:-build/gpu}/meet" "$(wc -w <<<"$NETWORKS")" --out "$OUT/gpu_engines.json" &
done
wait
show
