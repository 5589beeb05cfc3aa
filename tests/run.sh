#!/bin/sh
# Runs test programs and sums them up.
#
#   tests/run.sh PROGRAM...
#
# A program is a Criterion binary (test_*) or the replay of a fuzz corpus (replay_*; passes when it
# exits with 0). Prints one line for each, every skipped test with its reason, the whole output of
# a program that fails, and at the end "N passed, N failed, N skipped". Exits with 1 when a test
# fails, crashes or takes too long, and when no test ran at all.
#
# Environment: SANITIZER (address, undefined, thread: what the programs were built with), CONVD_BIN
# (the program under test), CONVD_CPU (highest CPU level), CONVD_SHARED (test data that is not in
# the tree), TEST_TIMEOUT (seconds for each program; 120, with a sanitizer 900).

set -u
cd "$(dirname "$0")/.." || exit 1

timeout_s=${TEST_TIMEOUT:-120}
case ${SANITIZER:-} in
'') ;;
address)
    # Not detect_stack_use_after_return: gcc 12 then misaligns AVX-512 locals (GCC bug 110027).
    timeout_s=${TEST_TIMEOUT:-900}
    export ASAN_OPTIONS="detect_leaks=1:halt_on_error=1:abort_on_error=0:exitcode=99:strict_string_checks=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}" ;;
undefined)
    timeout_s=${TEST_TIMEOUT:-900}
    export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:exitcode=99${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}" ;;
thread)
    timeout_s=${TEST_TIMEOUT:-900}
    export TSAN_OPTIONS="halt_on_error=1:exitcode=66:second_deadlock_stack=1${TSAN_OPTIONS:+:$TSAN_OPTIONS}" ;;
*)
    echo "run.sh: unknown SANITIZER '$SANITIZER'" >&2
    exit 1 ;;
esac
[ -n "${CONVD_CPU:-}" ] || unset CONVD_CPU
CONVD_SHARED=${CONVD_SHARED:-../shared}
export CONVD_SHARED

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
tap=$scratch/tap
output=$scratch/output

passed=0 failed=0 skipped=0

# run_criterion PROGRAM: sets ok, bad, skip and wrong (a failure of the program as a whole).
run_criterion() {
    timeout -k 5 "$timeout_s" "$1" --tap="$tap" >"$output" 2>&1
    rc=$?
    # Parameterised tests print several results, so the plan is a lower bound.
    plan=$(sed -n 's/^1\.\.\([0-9][0-9]*\)$/\1/p' "$tap")
    skip=$(grep -c '^ok .*# SKIP' "$tap")
    ok=$(($(grep -c '^ok ' "$tap") - skip))
    bad=$(grep -c '^not ok ' "$tap")
    wrong=
    if [ "$rc" -eq 124 ] || [ "$rc" -eq 137 ]; then
        wrong="timed out after $timeout_s s"
    elif [ -z "$plan" ]; then
        wrong="wrote no report (exit status $rc)"
    elif [ $((ok + bad + skip)) -lt "$plan" ]; then
        wrong="ended after $((ok + bad + skip)) of $plan tests (exit status $rc)"
    elif [ "$rc" -ne 0 ] && [ "$bad" -eq 0 ]; then
        wrong="exit status $rc"
    fi
}

run_replay() {
    name=$(basename "$1")
    timeout -k 5 "$timeout_s" "$1" "tests/fuzz/corpus/${name#replay_fuzz_}" >"$output" 2>&1
    rc=$?
    ok=1 bad=0 skip=0 wrong=
    if [ "$rc" -ne 0 ]; then
        ok=0
        wrong="exit status $rc"
        [ "$rc" -ne 124 ] && [ "$rc" -ne 137 ] || wrong="timed out after $timeout_s s"
    fi
}

for program in "$@"; do
    : >"$tap"
    : >"$output"
    started=$(date +%s%N)
    case $program in
    */replay_*) run_replay "$program" ;;
    *) run_criterion "$program" ;;
    esac
    ms=$((($(date +%s%N) - started) / 1000000))
    [ -z "$wrong" ] || bad=$((bad + 1))
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))

    verdict=ok counts="$ok passed"
    [ "$bad" -eq 0 ] || { verdict=FAIL; counts="$counts, $bad failed"; }
    [ "$skip" -eq 0 ] || counts="$counts, $skip skipped"
    printf '%-4s %-38s %6d.%02d s  %s\n' "$verdict" "${program#*/tests/}" \
        $((ms / 1000)) $((ms % 1000 / 10)) "$counts${wrong:+: $wrong}"
    if [ "$skip" -gt 0 ]; then
        sed -n 's/^ok - \(.*[^ ]\)  *# SKIP */     skipped \1: /p' "$tap"
    fi
    if [ "$bad" -gt 0 ]; then
        sed 's/^/     | /' "$output"
        [ ! -s "$tap" ] || sed -n 's/^not ok - /     failed /p' "$tap"
    fi
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
