#!/usr/bin/env bash
# Start the trainings of the two shipped models and return. They run for SECONDS_OF_TRAINING seconds from a copy
# of this folder, while gpu/train.sh brings what the third one needs; gpu/train.sh collects the models.
source "$(dirname "$0")/common.sh"
TIME=${SECONDS_OF_TRAINING:-210} # in all
KL=${KL:-40}                     # of it, for the autoencoder
BATCH=${BATCH:-512}
HOME_OF_TRAININGS=${HOME_OF_TRAININGS:-/tmp/trainings}
mkdir -p "$HOME_OF_TRAININGS"
cp -r qdiff_lib training "$CARRIED/fashion" "$CARRIED/emoji.tgz" "$HOME_OF_TRAININGS"
cd "$HOME_OF_TRAININGS" || exit
PYTHONPATH="$PWD${SITE:+:$SITE}"
OUT=$PWD
setsid bash -c "$(declare -f run); OUT=$OUT; run $((TIME + 30)) ddpm-fashion python3 training/train_ddpm.py \
	--seconds $TIME --batch-size $BATCH --data fashion --work fashion-work --out ddpm-fashion" \
	>fashion.txt 2>&1 </dev/null &
setsid bash -c "$(declare -f run); OUT=$OUT
	run $((KL + 40)) emoji-kl python3 training/train_autoencoder.py --kind kl --seconds $KL --batch-size ${KL_BATCH:-64} \
		--data emoji.tgz --work kl-work --out emoji-kl
	run $((TIME - KL + 30)) sd-emoji python3 training/train_sd.py --seconds \$(($TIME - SECONDS - 8)) --batch-size ${SD_BATCH:-256} \
		--data emoji.tgz --autoencoder emoji-kl --work sd-work --out sd-emoji" >sd.txt 2>&1 </dev/null &
sleep "${LOOK:-6}"
ls "$HOME_OF_TRAININGS"
