/* Progress lines (see progress.h). */
#include "server/progress.h"

#include "server/clock.h"

#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define REDRAW_NS  100000000u   /* on a terminal */
#define LINE_NS    10000000000u /* elsewhere */
#define BAR_MAX    40u
#define BAR_MIN    8u
#define COLUMNS    80u /* when the terminal does not say */
#define ERASE_LINE "\r\x1b[K"

void progress_begin(struct progress *p, FILE *out, const char *unit, uint64_t total)
{
    const uint64_t now = clock_ns();
    *p = (struct progress){.out = out, .unit = unit, .total = total, .start_ns = now};
    p->terminal = isatty(fileno(out)) == 1;
    p->next_ns = now + (p->terminal ? 0 : LINE_NS);
}

/* "1:05:09" or "2:07" */
static void write_time(uint64_t seconds, char *text, size_t room)
{
    if (seconds >= 3600)
        snprintf(text, room, "%" PRIu64 ":%02u:%02u", seconds / 3600, (unsigned)(seconds / 60 % 60),
                 (unsigned)(seconds % 60));
    else
        snprintf(text, room, "%u:%02u", (unsigned)(seconds / 60), (unsigned)(seconds % 60));
}

void progress_line(const struct progress *p, const char *label, uint64_t done, uint64_t now_ns,
                   unsigned columns, char line[PROGRESS_LINE_BYTES])
{
    const double seconds = (double)(now_ns - p->start_ns) * 1e-9;
    const double rate = seconds > 0 ? (double)done / seconds : 0;
    const double share = p->total > 0 ? (double)done / (double)p->total : 0;
    char left[24] = "?", after[96], bar[BAR_MAX + 4] = "";
    if (rate > 0)
        write_time((uint64_t)((double)(p->total - done) / rate + 0.5), left, sizeof left);
    snprintf(after, sizeof after, " %3.0f %%  %.0f %s/s  %s left", 100 * share, rate, p->unit,
             left);

    const size_t text = strlen(label) + strlen(after) + 4; /* " [" and "]", and a column free */
    if (columns >= text + BAR_MIN) {
        const size_t room = columns - text < BAR_MAX ? columns - text : BAR_MAX;
        const size_t full = (size_t)(share * (double)room);
        memset(bar, ' ', room + 3);
        bar[1] = '[';
        memset(bar + 2, '#', full);
        memset(bar + 2 + full, '.', room - full);
        bar[room + 2] = ']';
        bar[room + 3] = '\0';
    }
    snprintf(line, PROGRESS_LINE_BYTES, "%s%s%s", label, bar, after);
    if (columns > 0 && columns < PROGRESS_LINE_BYTES)
        line[columns - 1] = '\0'; /* a longer line would wrap and could not be drawn over */
}

static unsigned terminal_columns(const struct progress *p)
{
    struct winsize size;
    if (ioctl(fileno(p->out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return COLUMNS;
    return size.ws_col;
}

void progress_update(struct progress *p, const char *label, uint64_t done)
{
    const uint64_t now = clock_ns();
    char line[PROGRESS_LINE_BYTES];
    if (now < p->next_ns)
        return;
    p->next_ns = now + (p->terminal ? REDRAW_NS : LINE_NS);
    progress_line(p, label, done, now, p->terminal ? terminal_columns(p) : 0, line);
    fprintf(p->out, p->terminal ? ERASE_LINE "%s" : "%s\n", line);
    fflush(p->out);
    p->drawn = p->terminal;
}

void progress_clear(struct progress *p)
{
    if (!p->drawn)
        return;
    fputs(ERASE_LINE, p->out);
    fflush(p->out);
    p->drawn = false;
    p->next_ns = 0;
}
