#!/usr/bin/env bash
# Start the training of the CIFAR-10 network and return. It runs for TRAIN seconds from a copy of this folder,
# while gpu/train.sh is on its way with the data of the other two; gpu/train.sh waits for its end.
source "$(dirname "$0")/common.sh"
TRAIN=${TRAIN:-100}
BATCH=${BATCH:-512}
FIRST=${FIRST:-/tmp/first-training} # where it runs
mkdir -p "$FIRST"
cp -r qdiff_lib training "$CARRIED/cifar" "$FIRST"
cd "$FIRST" || exit
setsid bash -c "$(declare -f run); OUT=$PWD; export PYTHONPATH=$PWD:$SITE
	run $((TRAIN + 30)) ddpm-cifar10 python3 training/train_cifar10.py --seconds $TRAIN --batch-size $BATCH \
		--data cifar --work work --out ddpm-cifar10
	touch done" >started.txt 2>&1 </dev/null &
sleep "${LOOK:-5}"
ls "$FIRST"
