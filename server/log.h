/*
 * Structured log lines on standard error: logfmt-like text or JSON, one line an event.
 *
 * Callers never block: lines go into a bounded buffer that one thread writes out; what does not fit
 * is counted and reported. A stderr that is closed or full costs log lines, nothing else.
 *
 * Thread-safety: every function may be called from any thread.
 */
#ifndef CONVD_SERVER_LOG_H
#define CONVD_SERVER_LOG_H

#include "server/config.h"

#include <stdarg.h>

struct log;

struct log *log_create(enum config_log_level level, enum config_log_format format);
void log_destroy(struct log *log); /* writes out what is left, waiting at most a second */

/* One event: a message and key/value pairs, ended by a NULL key. Values are text; they are quoted
 * and escaped as the format needs. A key that starts with '#' (not part of the name) has a number
 * as its value, which JSON shows bare. Pairs with a NULL value are left out. */
struct log_field {
    const char *key;
    const char *value;
};
void log_event(struct log *log, enum config_log_level level, const char *message,
               const struct log_field *fields);

/* The same with a printf-style message and no fields. */
void log_printf(struct log *log, enum config_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As log_printf, but at most ten a second for each `format`; the next line that passes says how
 * many were held back. For messages that a client can provoke. */
void log_limited(struct log *log, enum config_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void log_limitedv(struct log *log, enum config_log_level level, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

#endif
