/* Tables for the terminal. */
#include "server/table.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define GAP 2

void table_init(struct table *t, const struct table_column *columns, unsigned count)
{
    *t = (struct table){.columns = columns, .column_count = count};
}

static bool grow(struct table *t)
{
    if (t->count < t->room)
        return true;
    size_t room = t->room ? t->room * 2 : 64;
    char **more = realloc(t->cells, room * sizeof *more);
    if (!more)
        return false;
    t->cells = more;
    t->room = room;
    return true;
}

static void make_harmless(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++)
        if (*c < 0x20 || *c == 0x7f)
            *c = '?';
}

void table_add(struct table *t, const char *format, ...)
{
    char *cell;
    va_list args;
    va_start(args, format);
    if (vasprintf(&cell, format, args) < 0)
        cell = NULL;
    va_end(args);
    if (!cell || t->failed || !grow(t)) {
        free(cell);
        t->failed = true;
        return;
    }
    make_harmless(cell);
    t->cells[t->count++] = cell;
}

void table_rule(struct table *t)
{
    size_t *more = realloc(t->rules, (t->rule_count + 1) * sizeof *more);
    if (!more) {
        t->failed = true;
        return;
    }
    t->rules = more;
    t->rules[t->rule_count++] = t->count / t->column_count;
}

/* Columns a text takes: its characters, not its bytes. */
static size_t width(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

/* The end of a text that is at most `room` wide. */
static const char *tail(const char *text, size_t room)
{
    for (size_t n = width(text); n > room; n--)
        do
            text++;
        while (((unsigned char)*text & 0xC0) == 0x80);
    return text;
}

/* Prints one row. Spaces wait until something follows them: no line ends in blanks. */
static void print_row(const struct table *t, char *const *cells, const size_t *widths, FILE *out)
{
    int blanks = 0;
    for (unsigned i = 0; i < t->column_count; i++) {
        const char *text = cells ? cells[i] : t->columns[i].title;
        bool cut = width(text) > widths[i];
        const char *shown = cut ? tail(text, widths[i] - 2) : text;
        int pad = (int)(widths[i] - width(shown)) - (cut ? 2 : 0);
        if (t->columns[i].right)
            blanks += pad;
        if (*shown) {
            fprintf(out, "%*s%s%s", blanks, "", cut ? ".." : "", shown);
            blanks = 0;
        }
        blanks += (t->columns[i].right ? 0 : pad) + GAP;
    }
    fputc('\n', out);
}

static size_t measure(const struct table *t, size_t widths[TABLE_MAX_COLUMNS])
{
    size_t total = 0;
    for (unsigned i = 0; i < t->column_count; i++) {
        widths[i] = width(t->columns[i].title);
        for (size_t cell = i; cell < t->count; cell += t->column_count)
            if (width(t->cells[cell]) > widths[i])
                widths[i] = width(t->cells[cell]);
        total += widths[i] + (i ? GAP : 0);
    }
    for (unsigned i = 0; i < t->column_count; i++) {
        size_t least = t->columns[i].elastic;
        if (least && total > TABLE_WIDTH && widths[i] > least) {
            size_t spare = widths[i] - least, excess = total - TABLE_WIDTH;
            size_t cut = excess < spare ? excess : spare;
            widths[i] -= cut;
            total -= cut;
        }
    }
    return total;
}

static void print_rule(size_t total, FILE *out)
{
    for (size_t i = 0; i < total; i++)
        fputc('-', out);
    fputc('\n', out);
}

bool table_print(const struct table *t, FILE *out)
{
    size_t widths[TABLE_MAX_COLUMNS];
    if (t->failed)
        return false;
    size_t total = measure(t, widths), rows = t->count / t->column_count, rule = 0;
    print_row(t, NULL, widths, out);
    print_rule(total, out);
    for (size_t row = 0; row < rows; row++) {
        if (rule < t->rule_count && t->rules[rule] == row) {
            print_rule(total, out);
            rule++;
        }
        print_row(t, t->cells + row * t->column_count, widths, out);
    }
    return true;
}

void table_free(struct table *t)
{
    for (size_t i = 0; i < t->count; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t->rules);
    *t = (struct table){0};
}

const char *table_count(uint64_t n, char buf[TABLE_NUMBER_BYTES])
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%" PRIu64, n);
    char *to = buf;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            *to++ = ',';
        *to++ = digits[i];
    }
    *to = '\0';
    return buf;
}

const char *table_rough(uint64_t n, char buf[TABLE_NUMBER_BYTES])
{
    static const char units[] = "MGTPE";
    if (n < 10000000)
        return table_count(n, buf);
    double x = (double)n / 1e6;
    size_t unit = 0;
    for (; x >= 1000 && units[unit + 1]; unit++)
        x /= 1000;
    snprintf(buf, TABLE_NUMBER_BYTES, "%.*f %c", x < 10 ? 2 : x < 100 ? 1 : 0, x, units[unit]);
    return buf;
}

const char *table_bytes(uint64_t n, char buf[TABLE_NUMBER_BYTES])
{
    static const char units[] = "KMGTPE";
    double x = (double)n / 1024;
    size_t unit = 0;
    if (n < 1024) {
        snprintf(buf, TABLE_NUMBER_BYTES, "%" PRIu64 " B", n);
        return buf;
    }
    for (; x >= 1024; unit++)
        x /= 1024;
    snprintf(buf, TABLE_NUMBER_BYTES, "%.*f %ciB", x < 100 ? 1 : 0, x, units[unit]);
    return buf;
}

void table_puts(const char *text, FILE *out)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        fputc(c < 0x20 || c == 0x7f ? '?' : c, out);
    }
}
