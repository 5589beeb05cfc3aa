#!/bin/bash
# Times the engine beside ONNX Runtime and prints one Markdown table.
#
#   tests/bench/engine.sh CONVD [FOLDER]
#
# Every model of the folder is run at each number of threads and images of a batch, the default
# model on one thread at 1, 8 and 64 images. One round runs both programs once at every setting,
# in turns, so that both meet the same machine; the table gives medians over the rounds and their
# ratio. Each side warms up before it measures. ONNX Runtime runs at its best settings: whichever
# of its two ways to wait is faster counts (see ort.js). What fails on one side says so.
#
# Environment: ORT_DIR (folder where `npm install onnxruntime-node` was run; without it, convd runs
# alone), ROUNDS (5), SECONDS_EACH (1), THREADS ("1 2"), BATCHES ("1 8"), ONLY ("resnet18 lenet5":
# only these models), ARGS (further options of `convd bench`), OTHER (another convd to run beside,
# in ONNX Runtime's place), LIMIT (600: seconds after which a run has failed).

set -eu
cd "$(dirname "$0")/../.."
convd=${1:?usage: tests/bench/engine.sh CONVD [FOLDER]}
folder=${2:-}
rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-1} limit=${LIMIT:-600}
threads=${THREADS:-1 2} batches=${BATCHES:-1 8}
read -ra args <<<"${ARGS:-}"

peer='' # what stands in the table
if [ -n "${OTHER:-}" ]; then
    peer=$OTHER
elif [ -n "${ORT_DIR:-}" ] && command -v node >/dev/null &&
    [ -d "$ORT_DIR/node_modules/onnxruntime-node" ]; then
    peer="ONNX Runtime $(sed -n 's/^ *"version": *"\([^"]*\)".*/\1/p' \
        "$ORT_DIR/node_modules/onnxruntime-node/package.json")"
else
    echo "convd runs alone: ORT_DIR does not name a folder where 'npm install onnxruntime-node'" \
        "was run" >&2
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
results=$scratch/results # tab-separated: model, threads, batch, who, milliseconds or "failed: why"
: >"$results"

# ---------------------------------------------------------------- one run of one side
number() { # KEY, JSON on standard input
    sed -n "s/.*\"$1\": *\([0-9.eE+-]*\).*/\1/p"
}

# Why the last command failed, on one line.
reason() { # EXIT-STATUS
    if [ "$1" -eq 124 ]; then
        echo "failed: took longer than $limit s"
    elif [ -s "$scratch/errors" ]; then
        echo "failed: $(tail -n 1 "$scratch/errors" | tr '\t' ' ' | cut -c 1-200)"
    else
        echo "failed: exit status $1"
    fi
}

run_convd() { # WHO PROGRAM MODEL THREADS BATCH: prints "who<tab>ms"
    local status=0
    timeout "$limit" "$2" bench --json --threads "$4" --batch "$5" --seconds "$seconds" \
        "${args[@]}" "$3" >"$scratch/json" 2>"$scratch/errors" || status=$?
    if [ "$status" -ne 0 ]; then
        printf '%s\t%s\n' "$1" "$(reason "$status")"
        return
    fi
    printf '%s\t%s\n' "$1" "$(number median_ms <"$scratch/json")"
    [ "$1" = peer ] || printf 'peak\t%s\n' "$(number percent_of_peak <"$scratch/json")"
    [ -s "$scratch/cpu" ] || sed -n 's/.*"cpu": *"\([^"]*\)".*/\1/p' "$scratch/json" >"$scratch/cpu"
}

run_peer() { # MODEL FILE THREADS BATCH
    local status=0
    if [ -n "${OTHER:-}" ]; then
        run_convd peer "$OTHER" "$1" "$3" "$4"
        return
    fi
    timeout "$limit" node tests/bench/ort.js "$2" "$3" "$4" "$seconds" \
        >"$scratch/ort" 2>"$scratch/errors" || status=$?
    if [ "$status" -ne 0 ]; then
        printf 'peer\t%s\n' "$(reason "$status")"
    else
        tr ' ' '\t' <"$scratch/ort"
    fi
}

# ---------------------------------------------------------------- all of them
bench_model() { # NAME MODEL FILE THREADS-LIST BATCH-LIST
    local round t b turn
    for round in $(seq "$rounds"); do
        for t in $4; do
            for b in $5; do
                # Who comes first changes from round to round.
                for turn in "$((round % 2))" "$(((round + 1) % 2))"; do
                    if [ "$turn" -eq 1 ]; then
                        run_convd convd "$convd" "$2" "$t" "$b"
                    elif [ -n "$peer" ]; then
                        run_peer "$2" "$3" "$t" "$b"
                    fi
                done | sed "s|^|$1\t$t\t$b\t|" >"$scratch/new"
                cat "$scratch/new" >>"$results"
                awk -F '\t' -v round="$round/$rounds" '
                    NR == 1 { printf "%s, threads %s, batch %s, round %s:", $1, $2, $3, round }
                    { printf " %s %s", $4, $5 }
                    END { print "" }' "$scratch/new" >&2
            done
        done
    done
}

wanted() {
    [ -z "${ONLY:-}" ] || [[ " $ONLY " = *" $1 "* ]]
}

table() {
    echo "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs, level" \
        "$(cat "$scratch/cpu" 2>/dev/null || echo '?'); $("$convd" --version | head -n 1)" \
        "beside ${peer:-nothing}; rounds of $seconds s: $rounds."
    echo
    awk -v peer="$peer" -f tests/bench/engine.awk "$results"
}

# What has been measured is shown, also when the rest is not waited for.
trap 'table; exit 130' INT TERM
if wanted lenet5; then
    bench_model lenet5 lenet5 engine/models/lenet5.onnx 1 "1 8 64"
fi
if [ -n "$folder" ]; then
    [ -d "$folder" ] || { echo "engine.sh: '$folder' is not a folder" >&2; exit 1; }
    mapfile -d '' files < <(find -L "$folder" -name '*.onnx' -print0 | sort -z)
    for file in "${files[@]}"; do
        name=${file#"$folder"}
        name=${name#/}
        name=${name%.onnx}
        if wanted "$name"; then
            bench_model "$name" "$file" "$file" "$threads" "$batches"
        fi
    done
fi
[ -s "$results" ] || { echo "engine.sh: no model of '$folder' is called '${ONLY:-}'" >&2; exit 1; }
table
