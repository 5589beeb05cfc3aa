/*
 * How libconvd reports failure.
 *
 * Every fallible function returns an enum cvd_status and, when it is not CVD_STATUS_OK, fills the
 * caller's struct cvd_error (which may be NULL). On failure output arguments are left untouched.
 * The library never prints, aborts or exits because of what it is given.
 *
 * "Invalid" means that the input contradicts its own specification; "unsupported" means that it is
 * legal but convd does not implement it. The two are never mixed: a user mends the first and
 * reports the second.
 */
#ifndef CONVD_STATUS_H
#define CONVD_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

enum cvd_status {
    CVD_STATUS_OK = 0,
    CVD_STATUS_INVALID_ARGUMENT,     /* the caller passed something out of its stated range */
    CVD_STATUS_INVALID_MODEL,        /* the model file contradicts ONNX or itself */
    CVD_STATUS_INVALID_DATA,         /* a data set is corrupt, truncated, mismatched or empty */
    CVD_STATUS_UNSUPPORTED,          /* legal, but not implemented */
    CVD_STATUS_UNSUPPORTED_HARDWARE, /* the CPU level asked for is not there */
    CVD_STATUS_OUT_OF_MEMORY,
    CVD_STATUS_IO,        /* a file could not be read or written */
    CVD_STATUS_STATE,     /* the call is not allowed now */
    CVD_STATUS_CANCELLED, /* stopped on request */
    CVD_STATUS_INTERNAL,  /* a fault of convd itself */
    CVD_STATUS_COUNT      /* number of values above */
};

#define CVD_ERROR_MESSAGE_BYTES 320

/* One failure in words: a single line without a final newline, always terminated. It names the
 * node, file or argument, the value found and what it should be. Owned by the caller. */
struct cvd_error {
    enum cvd_status status;
    char message[CVD_ERROR_MESSAGE_BYTES];
};

/* A short stable name such as "invalid_model"; "unknown" for a value outside the enum. */
const char *cvd_status_name(enum cvd_status status);

/* Fills *err (if not NULL) in printf style, cutting at the buffer's end, and returns status, so
 * that a failing function can end in `return cvd_error_set(err, …)`. Control characters and bytes
 * that are not UTF-8, as a file's names may hold, are replaced by '?'. Arguments may point into
 * err->message. */
enum cvd_status cvd_error_set(struct cvd_error *err, enum cvd_status status, const char *format,
                              ...) __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif
#endif
