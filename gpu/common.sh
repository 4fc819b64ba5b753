# What every script here does first: the scripts read it with `source`.
set -uo pipefail
OUT=${OUT:?set OUT to the folder for results}
CARRIED=${CARRIED:-.gpu}
SITE=${SITE:-$PWD/build/gpu-site}
if [ -d "$CARRIED/whl" ] && [ ! -d "$SITE" ]; then
	python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$SITE" "$CARRIED"/whl/*.whl || exit
fi
[ -d "$SITE" ] && export PYTHONPATH="$PWD:$SITE" || export PYTHONPATH=$PWD
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TQDM_MININTERVAL=10 PYTHONWARNINGS=ignore

# run SECONDS NAME COMMAND...: the command with a time limit; its output goes to $OUT/NAME.log.
run() {
	local limit=$1 name=$2 start=$SECONDS
	shift 2
	timeout "$limit" "$@" >"$OUT/$name.log" 2>&1
	local code=$?
	echo "$name: exit $code after $((SECONDS - start)) s"
	return $code
}

# show: the last lines of each log.
show() {
	local log
	for log in "$OUT"/*.log; do
		echo "== ${log##*/}"
		tail -c "${TAIL:-1500}" "$log" | tr '\r' '\n'
	done
}

# collect NAME: the folder $W/NAME as $OUT/NAME.tgz.*, in pieces of 16 MB.
collect() {
	[ -d "$W/$1" ] && tar -cz -f - -C "$W" "$1" | split -b 16000000 - "$OUT/$1.tgz."
}
