#!/usr/bin/env bash
# Train one network for TRAIN seconds, alone on the GPU: NETWORK is cifar10 (default), fashion or emoji.
# The model is kept in build/gpu/ for gpu/quantize.sh, and collected.
source "$(dirname "$0")/common.sh"
NETWORK=${NETWORK:-cifar10} TRAIN=${TRAIN:-270} BATCH=${BATCH:-512}
W=${W:-build/gpu}
mkdir -p "$W"
case $NETWORK in
cifar10) command="training/train_cifar10.py --data $CARRIED/cifar" ;;
fashion) command="training/train_ddpm.py --data $CARRIED/fashion" ;;
emoji) command="training/train_sd.py --data $CARRIED/emoji.tgz --autoencoder $CARRIED/emoji-kl" ;;
*) echo "NETWORK=$NETWORK is unknown: use cifar10, fashion or emoji" && exit 2 ;;
esac
# shellcheck disable=SC2086
run "$((TRAIN + 90))" "train-$NETWORK" python3 $command --seconds "$TRAIN" --batch-size "$BATCH" \
	--work "$W/$NETWORK-work" --out "$W/$NETWORK"
collect "$NETWORK"
show
