/*
 * The gate: refuses malformed framing and malformed or bomb-like image files before anything else
 * parses them. Pure functions over bytes; no allocation, linear time.
 */
#ifndef CONVD_SERVER_GATE_H
#define CONVD_SERVER_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gate_format { GATE_UNKNOWN, GATE_JPEG, GATE_PNG, GATE_BMP };

/* "jpeg", "png", "bmp", "unknown". */
const char *gate_format_name(enum gate_format format);

/* Recognises a file by its first bytes. */
enum gate_format gate_sniff(const void *bytes, size_t len);

enum gate_verdict {
    GATE_OK,
    GATE_NOT_AN_IMAGE, /* 415 unsupported_image_format */
    GATE_CORRUPT,      /* 422 corrupt_image */
    GATE_VARIANT,      /* 422 unsupported_image_variant */
    GATE_ZERO_SIZE,    /* 422 zero_size_image */
    GATE_TOO_LARGE,    /* 422 image_too_large */
    GATE_TOO_COMPLEX,  /* 422 image_too_complex */
    GATE_NO_MEMORY     /* 503 out_of_memory; from image_decode() */
};

struct gate_reason {
    char text[160]; /* one line for the client: what is wrong, with numbers */
};

struct gate_info {
    enum gate_format format;
    unsigned width, height;
    unsigned channels;     /* in the file */
    size_t decode_bytes;   /* most that decoding may allocate */
    size_t inflated_bytes; /* PNG: what its compressed data must inflate to, exactly */
    uint64_t cost_ns;      /* estimated decoding time */
};

struct gate_limits {
    uint64_t max_pixels;
    uint64_t max_cost_ns; /* 0: GATE_DEFAULT_COST_NS */
};
#define GATE_DEFAULT_COST_NS 500000000u
#define GATE_MAX_SIDE        16384u
#define GATE_MAX_SCANS       100u

/* Walks the whole file. *info is filled as far as it was read, also for a refused file. */
enum gate_verdict gate_image(const void *bytes, size_t len, const struct gate_limits *limits,
                             struct gate_info *info, struct gate_reason *why);

/*
 * Framing: what the HTTP library lets through although two parsers could read it differently.
 * One header at a time, then gate_framing_end(). Returns 0 while all is well, else the HTTP status
 * to answer before closing the connection, with *why set to a fixed text.
 */
struct gate_framing {
    unsigned headers, hosts, content_lengths, transfer_encodings;
    bool chunked;
    bool has_length;
    uint64_t content_length;
    bool expects_continue;
};
int gate_framing_header(struct gate_framing *f, const char *name, size_t name_len,
                        const char *value, size_t value_len, const char **why);
int gate_framing_end(const struct gate_framing *f, const char *method, const char *version,
                     const char *raw_uri, const char **why);

#endif
