#!/bin/sh
# Compares every model of some folders with ONNX Runtime: random images, batches of 1, 3 and 8.
#
#   tests/conformance/models.sh FOLDER...
#
# Prints a Markdown table: the largest difference of an output as a share of the output's range, for
# each batch, and whether all images get the same class. Exits with 1 when a model is off by more
# than 1e-4 or gives another class.
#
# Environment: ORT_DIR (folder where `npm install onnxruntime-node` was run), MODEL_RUN
# (build/gcc/model-run), BATCHES ("1 3 8"), LIMIT (1e-4).

set -u
[ $# -gt 0 ] || {
    echo "usage: tests/conformance/models.sh FOLDER..." >&2
    exit 2
}
here=$(dirname "$0")
tool=${MODEL_RUN:-$here/../../build/gcc/model-run}
if [ ! -d "${ORT_DIR:-}/node_modules/onnxruntime-node" ] || ! command -v node >/dev/null; then
    echo "skipped: ONNX Runtime is not found; set ORT_DIR to where 'npm install onnxruntime-node' was run"
    exit 0
fi
[ -x "$tool" ] || {
    echo "models.sh: $tool is not there: run 'make model-run'" >&2
    exit 2
}
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

find "$@" -name '*.onnx' | sort >"$scratch/models"
if [ ! -s "$scratch/models" ]; then
    echo "models.sh: no models in $*" >&2
    exit 1
fi
tr '\n' '\0' <"$scratch/models" | xargs -0 node "$here/models.js" "$tool" "$scratch"
