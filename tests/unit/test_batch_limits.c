/* The batcher: who is let in, how long a batch may wait, and how it ends. */
#include "tests/unit/batch_fixture.h"

#include <limits.h>

/* ---- admission ---- */

Test(batch, the_queue_is_bounded_in_images)
{
    struct upload up[3];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(8, 0, 5);
    for (unsigned i = 0; i < 3; i++)
        upload_init(&up[i], i == 0 ? 6 : 3, i, &done);
    cr_expect_eq(reserve(b, &up[0]), BATCH_FULL, "six never fit");
    occupy(1);
    submit(b, &up[1]);
    cr_expect_eq(reserve(b, &up[2]), BATCH_FULL);
    cr_expect_eq(batch_look(b, 3, 0), BATCH_FULL);
    cr_expect_eq(batch_look(b, 2, 0), BATCH_ACCEPTED);
    cr_expect_eq(batch_depth(b), 3, "looking takes no place");
    release(1);
    wait_for(&done, 1);
    expect_own_answer(&up[1]);
    cr_expect_eq(up[0].done_calls + up[2].done_calls, 0, "done() came for a refused ticket");
    submit(b, &up[2]);
    wait_for(&done, 1);
    expect_own_answer(&up[2]);
    for (unsigned i = 0; i < 3; i++)
        upload_free(&up[i]);
    stop(b);
}

Test(batch, the_bytes_are_bounded_over_all_models)
{
    struct upload up[3];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    budget.max_bytes = 5 * IN * sizeof(float);
    struct batcher *b = batcher(8, 0, 100), *other = batcher(8, 0, 100);
    for (unsigned i = 0; i < 3; i++)
        upload_init(&up[i], 2 + i, i, &done);
    occupy(1);
    submit(b, &up[0]);
    submit(other, &up[1]);
    cr_expect_eq(reserve(b, &up[2]), BATCH_FULL);
    cr_expect_eq(batch_look(b, 1, 0), BATCH_FULL);
    cr_expect_eq(batch_look(b, UINT_MAX, 0), BATCH_FULL);
    cr_expect_eq(budget.bytes, 5 * IN * sizeof(float));
    cr_expect_float_eq(metric("convd_queue_bytes"), 5 * IN * sizeof(float), 0.1);
    release(1);
    wait_for(&done, 2);
    submit(b, &up[2]);
    wait_for(&done, 1);
    for (unsigned i = 0; i < 3; i++) {
        expect_own_answer(&up[i]);
        upload_free(&up[i]);
    }
    batcher_destroy(other);
    stop(b);
}

Test(batch, what_cannot_be_in_time_is_refused)
{
    struct upload first, many, late;
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(1, 0, 400000);
    upload_init(&first, 1, 0, &done);
    upload_init(&many, 200000, 1, &done);
    upload_init(&late, 1, 2, &done);
    first.ticket.deadline_ns = clock_ns();
    cr_expect_eq(reserve(b, &first), BATCH_TOO_LATE, "the deadline has passed");
    cr_expect_eq(batch_look(b, 1, first.ticket.deadline_ns), BATCH_TOO_LATE);
    first.ticket.deadline_ns = clock_ns() + 60000000000u;
    cr_expect_eq(batch_estimate_ns(b), 0, "nothing is known and nothing waits");
    submit(b, &first);
    wait_for(&done, 1);

    occupy(1);
    submit(b, &many); /* takes long enough for the next: an image needs a fraction of 1 us */
    uint64_t estimate = batch_estimate_ns(b);
    cr_assert_gt(estimate, 100000, "only %llu ns", (unsigned long long)estimate);
    enum batch_admission admission;
    do { /* until the decision fell before the deadline: a busy machine may be slower */
        late.ticket.deadline_ns = clock_ns() + estimate / 2;
        admission = reserve(b, &late);
    } while (clock_ns() >= late.ticket.deadline_ns);
    cr_expect_eq(admission, BATCH_TOO_LATE);
    late.ticket.deadline_ns = clock_ns() + estimate + 60000000000u;
    submit(b, &late);
    many.gone = true;
    release(1);
    wait_for(&done, 2);
    expect_own_answer(&late);
    cr_expect_eq(batch_estimate_ns(b), 0, "an idle batcher makes nobody wait");
    upload_free(&first);
    upload_free(&many);
    upload_free(&late);
    stop(b);
}

/* Computing takes time as well: a wait that ends before the deadline is not enough. */
Test(batch, what_would_be_done_too_late_is_refused)
{
    struct upload first, many, late;
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(1000, 0, 400000);
    upload_init(&first, 1000, 0, &done);
    upload_init(&many, 200000, 1, &done);
    upload_init(&late, 200000, 2, &done);
    submit(b, &first);
    wait_for(&done, 1);
    occupy(1);
    submit(b, &many);
    uint64_t estimate = batch_estimate_ns(b);
    cr_assert_gt(estimate, 100000, "only %llu ns", (unsigned long long)estimate);
    enum batch_admission admission;
    do { /* until the wait alone was not too long: a busy machine may be slower */
        late.ticket.deadline_ns = clock_ns() + estimate + estimate / 2;
        admission = reserve(b, &late);
    } while (clock_ns() + estimate >= late.ticket.deadline_ns);
    cr_expect_eq(admission, BATCH_TOO_LATE);
    many.gone = true;
    release(1);
    wait_for(&done, 1);
    upload_free(&first);
    upload_free(&many);
    upload_free(&late);
    stop(b);
}

/* Who is let in is sure of his place, however long he takes to come to the queue: those who ask
 * meanwhile find it taken, and he does not ask again. */
Test(batch, a_reserved_place_is_kept)
{
    struct upload first, next;
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(8, 0, 4);
    upload_init(&first, 4, 0, &done);
    upload_init(&next, 1, 1, &done);
    cr_expect_eq(reserve(b, &first), BATCH_ACCEPTED);
    cr_expect_eq(batch_depth(b), 4);
    cr_expect_eq(budget.bytes, 4 * IN * sizeof(float));
    cr_expect_float_eq(metric("convd_queue_depth{model=\"m\"}"), 4, 0.1);
    cr_expect_eq(reserve(b, &next), BATCH_FULL);
    batch_submit(b, &first.ticket);
    wait_for(&done, 1);
    expect_own_answer(&first);
    submit(b, &next);
    wait_for(&done, 1);
    expect_own_answer(&next);

    cr_expect_eq(reserve(b, &first), BATCH_ACCEPTED);
    batch_give_back(b, 4);
    cr_expect_eq(batch_depth(b), 0);
    cr_expect_eq(budget.bytes, 0);
    cr_expect_float_eq(metric("convd_queue_depth{model=\"m\"}"), 0, 0.1);
    cr_expect_float_eq(metric("convd_queue_bytes"), 0, 0.1);
    upload_free(&first);
    upload_free(&next);
    stop(b);
}

/* What is refused for its bytes leaves no place taken. */
Test(batch, a_refusal_takes_nothing)
{
    struct upload up[2];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    budget.max_bytes = 3 * IN * sizeof(float);
    struct batcher *b = batcher(8, 0, 4);
    upload_init(&up[0], 2, 0, &done);
    upload_init(&up[1], 1, 1, &done);
    cr_expect_eq(reserve(b, &up[0]), BATCH_ACCEPTED);
    cr_expect_eq(reserve(b, &up[0]), BATCH_FULL, "four places, but bytes for three");
    cr_expect_eq(batch_depth(b), 2);
    cr_expect_eq(reserve(b, &up[1]), BATCH_ACCEPTED);
    batch_give_back(b, 3);
    for (unsigned i = 0; i < 2; i++)
        upload_free(&up[i]);
    stop(b);
}

/* An image that is being decoded is waited for as long as that takes, and to be computed after. */
Test(batch, decoding_is_part_of_the_wait)
{
    struct upload first, next;
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(8, 0, 8);
    upload_init(&first, 4, 0, &done);
    upload_init(&next, 1, 1, &done);
    first.ticket.decode_ns = 4000000000u;
    submit(b, &first);
    wait_for(&done, 1);
    cr_expect_eq(batch_estimate_ns(b), 0);
    cr_expect_eq(batch_reserve(b, 3, 0), BATCH_ACCEPTED);
    cr_expect_geq(batch_estimate_ns(b), 3000000000u, "an image takes a second to decode");
    cr_expect_lt(batch_estimate_ns(b), 4000000000u);
    next.ticket.deadline_ns = clock_ns() + 1000000000u;
    cr_expect_eq(reserve(b, &next), BATCH_TOO_LATE);
    batch_give_back(b, 3);
    submit(b, &next); /* was there at once: that tells nothing of decoding */
    wait_for(&done, 1);
    cr_expect_eq(batch_reserve(b, 1, 0), BATCH_ACCEPTED);
    cr_expect_geq(batch_estimate_ns(b), 1000000000u);
    batch_give_back(b, 1);
    upload_free(&first);
    upload_free(&next);
    stop(b);
}

/* Who could not be computed before his deadline is not decoded, unless nobody else waits. */
Test(batch, no_work_is_put_into_what_would_be_late)
{
    struct upload first;
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(8, 0, 8);
    upload_init(&first, 1, 0, &done);
    first.ticket.decode_ns = 4000000000u;
    submit(b, &first);
    wait_for(&done, 1);
    uint64_t soon = clock_ns() + 3000000000u, later = soon + 60000000000u;
    cr_expect_eq(batch_reserve(b, 1, soon), BATCH_ACCEPTED, "nobody is in the way");
    cr_expect_not(batch_is_hopeless(b, 1, soon), "nobody else waits");
    cr_expect_eq(batch_reserve(b, 1, 0), BATCH_ACCEPTED);
    cr_expect(batch_is_hopeless(b, 1, soon), "an image takes four seconds to decode");
    cr_expect_not(batch_is_hopeless(b, 1, later));
    cr_expect_not(batch_is_hopeless(b, 1, 0), "no deadline");
    /* The two before him take eight seconds, and he four more. */
    uint64_t estimate = batch_estimate_ns(b);
    cr_expect_eq(batch_reserve(b, 1, clock_ns() + estimate + 2000000000u), BATCH_TOO_LATE);
    batch_give_back(b, 2);
    upload_free(&first);
    stop(b);
}

#define KEEN 4
struct keen {
    pthread_t thread;
    struct batcher *b;
    unsigned most, let_in;
};

static void *reserve_often(void *cookie)
{
    struct keen *k = cookie;
    for (unsigned i = 0; i < 20000 || k->let_in == 0; i++) {
        unsigned images = 1 + i % 3;
        if (batch_reserve(k->b, images, 0) != BATCH_ACCEPTED)
            continue;
        unsigned depth = batch_depth(k->b);
        k->most = depth > k->most ? depth : k->most;
        k->let_in++;
        batch_give_back(k->b, images);
    }
    return NULL;
}

/* Without a lock, and yet never one too many. */
Test(batch, places_are_bounded_for_many_at_once)
{
    struct keen keen[KEEN];
    start(1, 0);
    budget.max_bytes = 6 * IN * sizeof(float);
    struct batcher *b = batcher(8, 0, 5);
    for (unsigned i = 0; i < KEEN; i++) {
        keen[i] = (struct keen){.b = b};
        cr_assert_eq(pthread_create(&keen[i].thread, NULL, reserve_often, &keen[i]), 0);
    }
    for (unsigned i = 0; i < KEEN; i++) {
        pthread_join(keen[i].thread, NULL);
        cr_expect_leq(keen[i].most, 5, "%u places of 5 were taken", keen[i].most);
        cr_expect_gt(keen[i].let_in, 0);
    }
    cr_expect_eq(batch_depth(b), 0);
    stop(b);
}

/* A ticket with little time is not computed together with so many that it would be late. */
Test(batch, a_batch_is_no_larger_than_its_tickets_have_time_for)
{
    enum { MANY = 200000 };
    struct upload first, urgent, many;
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(2 * MANY, 0, 2 * MANY);
    upload_init(&first, MANY, 0, &done);
    submit(b, &first);
    wait_for(&done, 1);
    uint64_t all_ns;
    do { /* until it did not expire before its batch was formed: a busy machine may be slower */
        upload_init(&urgent, 1, 1, &done);
        upload_init(&many, MANY, 2, &done);
        occupy(1);
        submit(b, &many);
        all_ns = batch_estimate_ns(b);
        many.gone = true;
        release(1);
        wait_for(&done, 1);
        many.gone = false;
        many.done_calls = 0;
        occupy(1);
        bool in_time = submit_within(b, &urgent, all_ns / 4);
        submit(b, &many);
        release(1);
        wait_for(&done, in_time ? 2 : 1);
        if (!in_time || urgent.ticket.outcome == BATCH_EXPIRED) {
            upload_free(&urgent);
            upload_free(&many);
            urgent.input = NULL;
        }
    } while (urgent.input == NULL);
    expect_own_answer(&urgent);
    expect_own_answer(&many);
    cr_expect_leq(urgent.ticket.batch_size, MANY / 4 + 1, "%u images in the batch",
                  urgent.ticket.batch_size);
    upload_free(&first);
    upload_free(&urgent);
    upload_free(&many);
    stop(b);
}

/* ---- a delay ---- */

#define ATTEMPTS 20

Test(batch, a_delay_counts_from_the_oldest_arrival)
{
    const uint64_t delay_ns = 300000000;
    struct upload up[2];
    unsigned left = ATTEMPTS, together;
    sem_t done;
    sem_init(&done, 0, 0);
    do { /* until the machine did not stall for so long */
        cr_assert_gt(left--, 0, "never in one batch");
        start(2, 0);
        struct batcher *b = batcher(8, delay_ns, 100);
        for (unsigned i = 0; i < 2; i++)
            upload_init(&up[i], 1, i, &done);
        submit(b, &up[0]);
        usleep(20000);
        submit(b, &up[1]);
        wait_for(&done, 2);
        together = up[0].ticket.batch_size == 2;
        for (unsigned i = 0; i < 2; i++)
            expect_own_answer(&up[i]);
        cr_expect_geq(up[0].ticket.queue_ns, delay_ns);
        cr_expect(!together || up[1].ticket.queue_ns < up[0].ticket.queue_ns - 19000000,
                  "the second waited as if it had come first");
        expect_batches(0, 2 - together, 0, 2);
        submit(b, &up[0]); /* and once more: the timer has not fallen asleep */
        wait_for(&done, 1);
        expect_batches(0, 3 - together, 0, 3);
        upload_free(&up[0]);
        upload_free(&up[1]);
        stop(b);
    } while (!together);
}

Test(batch, a_full_batch_does_not_wait)
{
    struct upload up[3];
    sem_t done;
    sem_init(&done, 0, 0);
    start(2, 0);
    struct batcher *b = batcher(4, 600000000000u, 100); /* ten minutes */
    for (unsigned i = 0; i < 3; i++) {
        upload_init(&up[i], i == 2 ? 5 : 2, i, &done);
        submit(b, &up[i]);
    }
    wait_for(&done, 2); /* the third needs a fifth image */
    expect_own_answer(&up[0]);
    expect_own_answer(&up[1]);
    cr_expect_eq(up[2].done_calls, 0);
    batcher_destroy(b); /* nothing more can come: the rest runs now */
    cr_expect_eq(up[2].done_calls, 1);
    expect_own_answer(&up[2]);
    expect_batches(2, 1, 0, 9);
    for (unsigned i = 0; i < 3; i++)
        upload_free(&up[i]);
    stop(NULL);
}

/* Half of the time that a request has may go into waiting for others. */
Test(batch, a_delay_leaves_time_before_the_deadline)
{
    struct upload up[2];
    unsigned left = ATTEMPTS;
    sem_t done;
    sem_init(&done, 0, 0);
    start(2, 0);
    struct batcher *b = batcher(8, 600000000000u, 100); /* ten minutes */
    for (unsigned i = 0; i < 2; i++)
        upload_init(&up[i], 1, i, &done);
    submit(b, &up[0]);
    bool in_time;
    do { /* until the machine did not stall for so long */
        cr_assert_gt(left--, 0, "the time that is left is never enough");
        in_time = submit_within(b, &up[1], 400000000);
        if (in_time)
            wait_for(&done, 1);
        in_time = in_time && up[1].ticket.outcome != BATCH_EXPIRED;
    } while (!in_time);
    wait_for(&done, 1);
    up[1].done_calls = 1;
    for (unsigned i = 0; i < 2; i++) {
        expect_own_answer(&up[i]);
        cr_expect_eq(up[i].ticket.batch_size, 2);
        cr_expect_geq(up[i].ticket.queue_ns, 190000000);
    }
    expect_batches(0, 1, 0, 2);
    submit(b, &up[0]); /* nobody is in a hurry any more */
    usleep(300000);
    cr_expect_eq(up[0].done_calls, 1);
    batcher_destroy(b);
    cr_expect_eq(up[0].done_calls, 2);
    upload_free(&up[0]);
    upload_free(&up[1]);
    stop(NULL);
}

/* ---- deadlines ---- */

/* However long the batch before them takes: workers are busy all the time here. Returns whether the
 * third was told alone, before the deadline of the second had come. */
static bool expired_in_time(void)
{
    struct upload up[4];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(8, 0, 100);
    occupy(1);
    for (unsigned i = 0; i < 4; i++) {
        static const uint64_t ms[] = {0, 200, 100, 60000};
        upload_init(&up[i], 2, i, &done);
        if (i == 0)
            submit(b, &up[i]);
        while (i > 0 && !submit_within(b, &up[i], ms[i] * 1000000u))
            continue;
    }
    wait_for(&done, 1);
    bool alone = up[2].done_calls == 1 && up[1].done_calls == 0;
    wait_for(&done, 1);
    for (unsigned i = 1; i < 3; i++) {
        cr_expect_eq(up[i].ticket.outcome, BATCH_EXPIRED);
        cr_expect_eq(up[i].done_calls, 1);
        cr_expect_geq(up[i].ticket.queue_ns, up[i].ticket.deadline_ns - up[i].ticket.arrival_ns);
        expect_untouched(&up[i], 0);
    }
    cr_expect_eq(batch_depth(b), 4);
    cr_expect_float_eq(metric("convd_queue_wait_seconds_count{model=\"m\"}"), 2, 0.1);
    release(1);
    wait_for(&done, 2);
    expect_own_answer(&up[0]);
    expect_own_answer(&up[3]);
    expect_batches(0, 0, 1, 4);
    for (unsigned i = 0; i < 4; i++)
        upload_free(&up[i]);
    stop(b);
    return alone;
}

Test(batch, the_expired_are_told_in_time)
{
    unsigned left = ATTEMPTS;
    while (!expired_in_time())
        cr_assert_gt(--left, 0, "the later deadline is always waited for");
}

static sem_t told;
static _Atomic uint64_t told_ns;

static void on_late(struct batch_ticket *t)
{
    struct upload *up = (struct upload *)t;
    cr_assert_eq(up->done_calls, 0, "told after the end");
    up->late_calls++;
    told_ns = clock_ns();
    sem_post(&told);
    usleep(20000); /* the batch may end meanwhile, and must not end the ticket */
    cr_assert_eq(up->done_calls, 0, "ended while it was being told");
}

/* Has all uploads computed in one batch, by a batcher that does not know yet how long that takes;
 * the last of them before a deadline that is so far away, 0: none. False when the batch had not
 * begun by then. */
static bool compute_together(struct upload *up, unsigned count, uint64_t ns, sem_t *done)
{
    struct upload *last = &up[count - 1];
    unsigned images = count * last->ticket.images;
    struct batcher *b = batcher(images, 0, images);
    for (unsigned i = 0; i < count; i++)
        up[i].done_calls = up[i].late_calls = 0;
    last->ticket.deadline_ns = 0;
    occupy(1);
    for (unsigned i = 0; i + 1 < count; i++)
        submit(b, &up[i]);
    bool in_time = true;
    if (ns > 0)
        in_time = submit_within(b, last, ns);
    else
        submit(b, last);
    release(1);
    wait_for(done, in_time ? count : count - 1);
    batcher_destroy(b);
    return in_time && last->ticket.batch_size > 0;
}

/* The same with a deadline that passes meanwhile, in the middle of the time that all of them take.
 */
static void let_expire(struct upload *up, unsigned count, sem_t *done)
{
    const struct upload *last = &up[count - 1];
    uint64_t least_ns = UINT64_MAX;
    for (unsigned left = ATTEMPTS; left > 0; left--) {
        cr_assert(compute_together(up, count, 0, done));
        if (last->ticket.compute_ns < least_ns)
            least_ns = last->ticket.compute_ns;
        if (compute_together(up, count, least_ns / 2, done) &&
            last->ticket.outcome == BATCH_EXPIRED)
            return;
    }
    cr_assert_fail("it never expired while it was computed");
}

/* The images are being computed when the deadline comes: the owner learns it then, and has his
 * memory back when the batch is over; others in the batch get their answers. */
Test(batch, a_deadline_that_passes_meanwhile_is_told)
{
    enum { MANY = 200000 };
    struct upload up[2];
    sem_t done;
    sem_init(&done, 0, 0);
    sem_init(&told, 0, 0);
    start(1, 0);
    for (unsigned i = 0; i < 2; i++)
        upload_init(&up[i], MANY, i, &done);
    up[1].ticket.late = on_late;
    let_expire(up, 2, &done);
    cr_expect_eq(up[1].done_calls, 1);
    cr_expect_eq(up[1].late_calls, 1);
    cr_expect(up[1].ticket.told);
    wait_for(&told, 1);
    cr_expect_geq(told_ns, up[1].ticket.deadline_ns);
    expect_own_answer(&up[0]);
    cr_expect_eq(up[0].late_calls, 0);
    for (unsigned i = 0; i < 2; i++)
        upload_free(&up[i]);
    stop(NULL);
}

/* Who has not asked to be told learns it at the end. */
Test(batch, an_answer_after_the_deadline_is_none)
{
    struct upload up;
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    upload_init(&up, 200000, 0, &done);
    let_expire(&up, 1, &done);
    cr_expect(!up.ticket.told);
    upload_free(&up);
    stop(NULL);
}

/* ---- ending ---- */

static void *release_soon(void *cookie)
{
    (void)cookie;
    usleep(20000);
    release(2);
    return NULL;
}

Test(batch, destroying_waits_for_everything_accepted)
{
    struct upload up[50];
    pthread_t thread;
    sem_t done;
    sem_init(&done, 0, 0);
    start(2, 0);
    struct batcher *b = batcher(4, 0, 1000);
    occupy(2);
    for (unsigned i = 0; i < 50; i++) {
        upload_init(&up[i], 1 + i % 7, i, &done);
        submit(b, &up[i]);
    }
    cr_assert_eq(pthread_create(&thread, NULL, release_soon, NULL), 0);
    batcher_destroy(b);
    for (unsigned i = 0; i < 50; i++) {
        expect_own_answer(&up[i]); /* with done() seen, although nobody waited for it */
        upload_free(&up[i]);
    }
    pthread_join(thread, NULL);
    stop(NULL);
}

static sem_t entered;

static void on_done_slowly(struct batch_ticket *t)
{
    sem_post(&entered);
    usleep(50000);
    on_done(t);
}

Test(batch, destroying_waits_for_the_last_callback)
{
    struct upload up;
    sem_t done;
    sem_init(&done, 0, 0);
    sem_init(&entered, 0, 0);
    start(2, 0);
    struct batcher *b = batcher(4, 0, 1000);
    upload_init(&up, 1, 0, &done);
    up.ticket.done = on_done_slowly;
    submit(b, &up);
    wait_for(&entered, 1); /* the queue is empty, the answer is there */
    batcher_destroy(b);
    cr_expect_eq(up.done_calls, 1);
    upload_free(&up);
    stop(NULL);
}

Test(batch, impossible_options_and_models_are_refused)
{
    struct batcher *b = NULL;
    struct batch_options options = {
        .max_batch = 0, .max_queue = 1, .budget = &budget, .metrics = NULL};
    start(1, 0);
    options.metrics = series;
    cr_expect_eq(batcher_create(engine, model, &options, &b, &err), CVD_STATUS_INVALID_ARGUMENT);
    options.max_batch = 1;
    options.max_queue = 0;
    cr_expect_eq(batcher_create(engine, model, &options, &b, &err), CVD_STATUS_INVALID_ARGUMENT);
    options.max_queue = 1;
    cvd_model_destroy(model);

    /* Two inputs: y = x1 + x2. */
    static const int64_t dims[] = {-1, 4};
    struct pb graph = {0};
    pb_message(&graph, 1, pb_node("Add", "sum", "x1", "x2", "y"));
    pb_message(&graph, 11, pb_value("x1", 1, 2, dims));
    pb_message(&graph, 11, pb_value("x2", 1, 2, dims));
    pb_message(&graph, 12, pb_value("y", 1, 2, dims));
    struct pb file = pb_model(graph);
    cr_assert_eq(cvd_model_load(engine, file.data, file.len, NULL, &model, &err), CVD_STATUS_OK,
                 "%s", err.message);
    pb_free(&file);
    cr_expect_eq(batcher_create(engine, model, &options, &b, &err), CVD_STATUS_UNSUPPORTED);
    cr_expect_not_null(strstr(err.message, "2 inputs"), "%s", err.message);
    cr_expect_null(b);
    stop(NULL);
}
