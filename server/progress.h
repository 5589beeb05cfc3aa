/*
 * Progress of long work: on a terminal one line that is drawn over and over (bar, rate, time left),
 * elsewhere a plain line now and then. Goes to stderr, results go to stdout.
 *
 * Used by one thread at a time.
 */
#ifndef CONVD_SERVER_PROGRESS_H
#define CONVD_SERVER_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
    FILE *out;
    bool terminal;
    bool drawn; /* a bar stands on the terminal's last line */
    const char *unit;
    uint64_t total, start_ns, next_ns;
};

/* Starts the clock. `unit` is what is counted, in the plural; it must outlive *p. */
void progress_begin(struct progress *p, FILE *out, const char *unit, uint64_t total);

/* `done` of the total; label stands before the bar. Cheap: mostly it only looks at the clock. */
void progress_update(struct progress *p, const char *label, uint64_t done);

/* Takes the bar away, so that other text can be written; the next update draws it again. */
void progress_clear(struct progress *p);

/* The line without colors or control characters, as progress_update() shows it in `columns`
 * columns; without a bar when columns is 0. Always terminated. */
#define PROGRESS_LINE_BYTES 256
void progress_line(const struct progress *p, const char *label, uint64_t done, uint64_t now_ns,
                   unsigned columns, char line[PROGRESS_LINE_BYTES]);

#endif
