#!/bin/bash
# Times the engine on the default model, and on each model of a folder, in interleaved rounds beside
# ONNX Runtime when that is found, and prints a Markdown table of median milliseconds for a batch.
#
#   tests/bench/engine.sh CONVD [FOLDER]
#
# Environment: ORT_DIR (folder where `npm install onnxruntime-node` was run), ROUNDS (3),
# SECONDS_EACH (2), THREADS ("1 2"), BATCHES ("1 8").

set -eu
cd "$(dirname "$0")/../.."
convd=${1:?usage: tests/bench/engine.sh CONVD [FOLDER]}
folder=${2:-}
rounds=${ROUNDS:-3} seconds=${SECONDS_EACH:-2}

peer=
if [ -n "${ORT_DIR:-}" ] && command -v node >/dev/null &&
    [ -d "$ORT_DIR/node_modules/onnxruntime-node" ]; then
    peer=yes
else
    echo "ONNX Runtime is not found: set ORT_DIR to where 'npm install onnxruntime-node' was run" >&2
fi

number() { # KEY, JSON on standard input
    sed -n "s/.*\"$1\": *\([0-9.eE+-]*\).*/\1/p"
}

median() {
    sort -n | sed -n "$(((rounds + 1) / 2))p"
}

echo "$rounds rounds of $seconds s; $(nproc) CPUs," \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
echo
echo '| model | threads | batch | convd ms | images/s | % of peak | ONNX Runtime ms | faster |'
echo '|---|--:|--:|--:|--:|--:|--:|--:|'
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

models=engine/models/lenet5.onnx
if [ -n "$folder" ]; then
    models="$models $(find "$folder" -name '*.onnx' | sort)"
fi
for model in $models; do
    for threads in ${THREADS:-1 2}; do
        for batch in ${BATCHES:-1 8}; do
            : >"$scratch/own"
            : >"$scratch/peer"
            for _ in $(seq "$rounds"); do
                if ! json=$("$convd" bench --json --threads "$threads" --batch "$batch" \
                    --seconds "$seconds" "$model" 2>"$scratch/error"); then
                    echo "| $(basename "$model") | $threads | $batch | $(tail -n 1 "$scratch/error") |"
                    continue 2
                fi
                echo "$json" >"$scratch/json"
                for key in median_ms images_per_s percent_of_peak; do
                    number "$key" <"$scratch/json"
                done | tr '\n' ' ' >>"$scratch/own"
                echo >>"$scratch/own"
                [ -z "$peer" ] ||
                    node tests/bench/ort.js "$model" "$threads" "$batch" "$seconds" >>"$scratch/peer" 2>/dev/null || true
            done
            echo "$(median <"$scratch/own") $(median <"$scratch/peer")" |
                awk -v model="$(basename "$model" .onnx)" -v t="$threads" -v b="$batch" '{
                    peer = "-"; faster = "-"
                    if (NF == 4) { peer = sprintf("%.4f", $4); faster = sprintf("%.2fx", $4 / $1) }
                    printf "| %s | %d | %d | %.4f | %.0f | %.0f | %s | %s |\n", model, t, b, $1, $2,
                        $3, peer, faster }'
        done
    done
done
