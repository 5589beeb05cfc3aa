/*
 * Tables for the terminal: aligned columns, each as wide as what it holds. Where a line would be
 * too long, elastic columns are cut, the first one first; a text loses its beginning, because the
 * ends of names tell them apart. Text from model files is made harmless: control characters become
 * '?'.
 */
#ifndef CONVD_SERVER_TABLE_H
#define CONVD_SERVER_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct table_column {
    const char *title;
    bool right;     /* numbers */
    size_t elastic; /* what it may be cut to where the table would be too wide; 0 = never */
};

#define TABLE_MAX_COLUMNS 16
#define TABLE_WIDTH       110

struct table {
    const struct table_column *columns;
    unsigned column_count;
    char **cells; /* row by row */
    size_t count, room;
    size_t *rules; /* rows that a line is drawn before */
    size_t rule_count;
    bool failed; /* no memory: nothing is printed */
};

void table_init(struct table *t, const struct table_column *columns, unsigned count);

/* The next cell of the current row. */
void table_add(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line between the rows so far and those to come. */
void table_rule(struct table *t);

/* False when there was no memory. */
bool table_print(const struct table *t, FILE *out);
void table_free(struct table *t);

/* ---- numbers for people ---- */
#define TABLE_NUMBER_BYTES 32
const char *table_count(uint64_t n, char buf[TABLE_NUMBER_BYTES]); /* "1,234,567" */
const char *table_rough(uint64_t n, char buf[TABLE_NUMBER_BYTES]); /* from ten million on "14.7 M",
                                                                      "4.09 G": a narrow column */
const char *table_bytes(uint64_t n, char buf[TABLE_NUMBER_BYTES]); /* "512 B", "18.4 KiB" */

/* Prints text from a file, control characters as '?'. */
void table_puts(const char *text, FILE *out);

#endif
