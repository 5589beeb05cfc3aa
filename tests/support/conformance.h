/*
 * Runs cases in the format of ONNX's backend tests: a folder with model.onnx and, for every
 * test_data_set_N, input_I.pb in the order of the graph's inputs and output_I.pb to compare with.
 *
 * Files are not trusted: a case of which any is missing, malformed or enormous fails with a reason.
 */
#ifndef CONVD_TESTS_SUPPORT_CONFORMANCE_H
#define CONVD_TESTS_SUPPORT_CONFORMANCE_H

#include <convd/engine.h>

enum conformance_verdict { CONFORMANCE_PASS, CONFORMANCE_FAIL, CONFORMANCE_SKIP };

#define CONFORMANCE_REASON_BYTES 1024

/* Called for every case, in the order of their names. `reason` is empty for one that passes. */
typedef void (*conformance_fn)(void *ctx, const char *name, enum conformance_verdict verdict,
                               const char *reason);

/* Runs the case in `path`, or all cases in the folders below it. What the engine does not implement
 * fails, or is skipped when `skip_unsupported`. False when there is no such folder; no case in it
 * is nothing to run. */
bool conformance_run(struct cvd_engine *engine, const char *path, bool skip_unsupported,
                     conformance_fn report, void *ctx);

#endif
