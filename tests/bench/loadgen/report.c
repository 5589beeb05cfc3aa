/* The results as one JSON object. */
#include "tests/bench/loadgen/load.h"

#include <inttypes.h>

static void report_times(FILE *out, const char *name, const struct histogram *h)
{
    static const struct {
        const char *name;
        double share;
    } shown[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};

    fprintf(out, ",\"%s\":{", name);
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        fprintf(out, "\"%s\":%.3f,", shown[i].name,
                (double)histogram_quantile(h, shown[i].share) * 1e-6);
    fprintf(out, "\"max\":%.3f}", (double)h->max_ns * 1e-6);
}

static uint64_t count_of(const struct load_tally *t, int from, int to)
{
    uint64_t sum = 0;

    for (int status = from; status < to; status++)
        sum += t->statuses[status];
    return sum;
}

void load_report(FILE *out, const struct load_plan *plan, const struct load_tally *t)
{
    uint64_t ok = count_of(t, 200, 300);
    const char *between = "";

    fprintf(out,
            "{\"rate\":%.1f,\"seconds\":%.3f,\"took_s\":%.3f,\"scheduled\":%" PRIu64
            ",\"sent\":%" PRIu64 ",\"unsent\":%" PRIu64 ",\"answered\":%" PRIu64
            ",\"timed_out\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"broken\":%" PRIu64
            ",\"aborted\":%" PRIu64 ",\"wrong\":%" PRIu64,
            plan->rate, plan->seconds, t->took_s, t->scheduled, t->scheduled - t->unsent, t->unsent,
            t->answered, t->timed_out, t->refused, t->broken, t->aborted, t->wrong);
    fprintf(out,
            ",\"ok\":%" PRIu64 ",\"rejected\":%" PRIu64 ",\"expired\":%" PRIu64 ",\"statuses\":{",
            ok, t->statuses[503], t->statuses[504]);
    for (int status = 0; status < LOAD_MAX_STATUS; status++) {
        if (t->statuses[status]) {
            fprintf(out, "%s\"%d\":%" PRIu64, between, status, t->statuses[status]);
            between = ",";
        }
    }
    fprintf(out, "},\"connections\":{\"opened\":%" PRIu64 ",\"most\":%u}", t->connections_opened,
            t->connections_most);
    fprintf(out, ",\"late_ms\":%.3f,\"cpu_s\":%.3f", (double)t->late_ns * 1e-6, t->cpu_s);
    report_times(out, "begun_ms", &t->begun);
    report_times(out, "ok_ms", &t->accepted);
    report_times(out, "rejected_ms", &t->rejected);
    report_times(out, "served_ms", &t->served);
    report_times(out, "turned_away_ms", &t->turned_away);
    /* What came after the end of the schedule is not the rate's merit. */
    uint64_t in_time = 0;
    size_t whole = (size_t)plan->seconds;
    for (size_t i = 0; i < whole; i++)
        in_time += t->per_second[i];
    fprintf(out, ",\"goodput_per_s\":%.1f,\"ok_per_second\":[",
            whole ? (double)in_time / (double)whole : (double)ok / t->took_s);
    size_t last = t->per_second_room;
    while (last > 0 && !t->per_second[last - 1])
        last--;
    for (size_t i = 0; i < last; i++)
        fprintf(out, "%s%" PRIu64, i ? "," : "", t->per_second[i]);
    fprintf(out, "]}\n");
}
