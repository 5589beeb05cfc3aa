/* Decimal numbers for replies and log lines, which have a dozen of them each: snprintf() would take
 * longer than everything else about a line. */
#ifndef CONVD_SERVER_DIGITS_H
#define CONVD_SERVER_DIGITS_H

#include <stddef.h>
#include <stdint.h>

#define DIGITS_BYTES 24 /* room for any number here, with its NUL */

/* Both write a string and return its length. */
static inline size_t digits_integer(char out[DIGITS_BYTES], uint64_t n)
{
    char reversed[DIGITS_BYTES];
    size_t len = 0;

    do
        reversed[len++] = (char)('0' + n % 10);
    while (n /= 10);
    for (size_t i = 0; i < len; i++)
        out[i] = reversed[len - 1 - i];
    out[len] = '\0';
    return len;
}

/* Nanoseconds as milliseconds with three places. */
static inline size_t digits_ms(char out[DIGITS_BYTES], uint64_t ns)
{
    uint64_t us = ns / 1000 + (ns % 1000 >= 500);
    size_t len = digits_integer(out, us / 1000);
    unsigned rest = (unsigned)(us % 1000);

    out[len] = '.';
    out[len + 1] = (char)('0' + rest / 100);
    out[len + 2] = (char)('0' + rest / 10 % 10);
    out[len + 3] = (char)('0' + rest % 10);
    out[len + 4] = '\0';
    return len + 4;
}

#endif
