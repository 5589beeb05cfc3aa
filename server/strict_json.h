/*
 * JSON documents through jansson, with the traps of its parser closed: keys that come twice are
 * refused, and running out of memory is neither taken for bad input nor the end of the process.
 */
#ifndef CONVD_SERVER_STRICT_JSON_H
#define CONVD_SERVER_STRICT_JSON_H

#include <jansson.h>
#include <stdbool.h>

/* A document and its memory. Its values are borrowed: never json_decref() one of them. */
struct strict_json {
    json_t *root;       /* an object or array, or NULL */
    bool no_memory;     /* why there is none; else: */
    json_error_t fault; /* what is wrong with the text */
    /* private */
    struct strict_json_chunk *chunks;
    char *at;
    size_t left, next_room;
    _Alignas(16) char first[2048]; /* small documents need no other memory */
};

/* Whether the text was read; strict_json_free() in any case. */
bool strict_json_read(struct strict_json *doc, const char *text, size_t len);
void strict_json_free(struct strict_json *doc);

#endif
