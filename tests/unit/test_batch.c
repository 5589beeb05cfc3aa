/* The batcher: which batches are formed, and that everybody gets their own answer. */
#include "tests/unit/batch_fixture.h"

#include <math.h>

/* ---- forming batches ---- */

Test(batch, a_lone_image_starts_at_once)
{
    struct upload up;
    sem_t done;
    sem_init(&done, 0, 0);
    start(2, 0);
    struct batcher *b = batcher(32, 0, 100);
    upload_init(&up, 1, 1, &done);
    submit(b, &up);
    wait_for(&done, 1);
    expect_own_answer(&up);
    cr_expect_eq(up.ticket.batch_size, 1);
    expect_batches(0, 0, 1, 1);
    cr_expect_float_eq(metric("convd_queue_wait_seconds_count{model=\"m\"}"), 1, 0.1);
    cr_expect_float_eq(metric("convd_compute_seconds_count{model=\"m\"}"), 1, 0.1);
    upload_free(&up);
    stop(b);
}

Test(batch, what_queued_up_forms_the_next_batch)
{
    struct upload up[5];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(8, 0, 100);
    occupy(1);
    for (unsigned i = 0; i < 5; i++) {
        upload_init(&up[i], 1, i, &done);
        submit(b, &up[i]);
    }
    cr_expect_eq(batch_depth(b), 5);
    usleep(2000);
    release(1);
    wait_for(&done, 5);
    for (unsigned i = 0; i < 5; i++) {
        expect_own_answer(&up[i]);
        cr_expect_eq(up[i].ticket.batch_size, 5);
        cr_expect_geq(up[i].ticket.queue_ns, 2000000);
        cr_expect_gt(up[i].ticket.compute_ns, 0);
        upload_free(&up[i]);
    }
    cr_expect_eq(batch_depth(b), 0);
    expect_batches(0, 0, 1, 5);
    stop(b);
}

Test(batch, a_large_ticket_is_split_and_small_ones_fill_up)
{
    static const unsigned images[] = {3, 20, 1, 2}; /* 8 + 8 + 8 + 2 */
    struct upload up[4];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(8, 0, 100);
    occupy(1);
    for (unsigned i = 0; i < 4; i++) {
        upload_init(&up[i], images[i], i, &done);
        submit(b, &up[i]);
    }
    release(1);
    wait_for(&done, 4);
    for (unsigned i = 0; i < 4; i++)
        expect_own_answer(&up[i]);
    cr_expect_eq(up[0].ticket.batch_size, 8);
    cr_expect_eq(up[1].ticket.batch_size, 8);
    cr_expect_eq(up[2].ticket.batch_size, 8);
    cr_expect_eq(up[3].ticket.batch_size, 2);
    expect_batches(3, 0, 1, 26);
    for (unsigned i = 0; i < 4; i++)
        upload_free(&up[i]);
    stop(b);
}

/* The first images of the two halves wait for each other, or the quicker worker would come back for
 * more before the slower one has begun. */
static pthread_barrier_t both_halves;

static void meet(struct batch_ticket *t)
{
    pthread_barrier_wait(&both_halves);
    on_done(t);
}

Test(batch, workers_share_what_is_waiting)
{
    struct upload up[8];
    sem_t done;
    sem_init(&done, 0, 0);
    start(2, 0);
    struct batcher *b = batcher(32, 0, 100);
    pthread_barrier_init(&both_halves, NULL, 2);
    occupy(2);
    for (unsigned i = 0; i < 8; i++) {
        upload_init(&up[i], 1, i, &done);
        if (i % 4 == 0)
            up[i].ticket.done = meet;
        submit(b, &up[i]);
    }
    release(2);
    wait_for(&done, 8);
    for (unsigned i = 0; i < 8; i++) {
        expect_own_answer(&up[i]);
        cr_expect_eq(up[i].ticket.batch_size, 4, "image %u ran among %u", i,
                     up[i].ticket.batch_size);
        upload_free(&up[i]);
    }
    expect_batches(0, 0, 2, 8);
    stop(b);
}

#define CLIENTS 6
#define TICKETS 150
struct client {
    struct batcher *b;
    unsigned seed;
    sem_t done;
    struct upload up[TICKETS];
};

static void *client(void *cookie)
{
    struct client *c = cookie;
    sem_init(&c->done, 0, 0);
    for (unsigned i = 0; i < TICKETS; i++) {
        upload_init(&c->up[i], 1 + (c->seed + i) % 11, c->seed * TICKETS + i, &c->done);
        submit(c->b, &c->up[i]);
        if (i % 5 == 4) /* some pipelining, some waiting */
            wait_for(&c->done, 5);
    }
    return NULL;
}

/* A job of the engine's that notes how many tickets have been ended before it. */
struct onlooker {
    struct cvd_job job; /* first */
    sem_t *done;
    int seen;
    sem_t ran;
};

static void look(struct cvd_job *job)
{
    struct onlooker *o = (struct onlooker *)job;
    sem_getvalue(o->done, &o->seen);
    sem_post(&o->ran);
}

/* Two tickets, of which one at a time is computed, and two jobs that came after both: how many
 * tickets are ended before the last of them, when decoding took workers so long. */
static int ended_before_later_jobs(uint64_t decode_ns)
{
    struct upload first, second;
    struct onlooker others[2];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(1, 0, 8);
    upload_init(&first, 1, 0, &done);
    upload_init(&second, 1, 1, &done);
    first.ticket.decode_ns = second.ticket.decode_ns = decode_ns;
    occupy(1);
    submit(b, &first);
    submit(b, &second);
    for (unsigned i = 0; i < 2; i++) {
        others[i] = (struct onlooker){.job.run = look, .done = &done};
        sem_init(&others[i].ran, 0, 0);
        cvd_engine_submit(engine, &others[i].job);
    }
    release(1);
    wait_for(&others[0].ran, 1);
    wait_for(&others[1].ran, 1);
    wait_for(&done, 2);
    upload_free(&first);
    upload_free(&second);
    stop(b);
    return others[1].seen;
}

/* What is decoded on workers would have to wait for its turn twice. */
Test(batch, what_workers_have_decoded_takes_turns_with_other_work)
{
    cr_expect_eq(ended_before_later_jobs(1000), 2);
}

Test(batch, what_came_ready_waits_for_earlier_work)
{
    cr_expect_eq(ended_before_later_jobs(0), 1);
}

Test(batch, concurrent_clients_get_their_own_answers)
{
    static struct client clients[CLIENTS];
    pthread_t threads[CLIENTS];
    start(2, 0);
    struct batcher *b = batcher(8, 0, 10000);
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){.b = b, .seed = i};
        cr_assert_eq(pthread_create(&threads[i], NULL, client, &clients[i]), 0);
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < CLIENTS; i++)
        for (unsigned j = 0; j < TICKETS; j++) {
            expect_own_answer(&clients[i].up[j]);
            cr_expect_lt(clients[i].up[j].ticket.queue_ns, 60000000000u, "a clock ran backwards");
            cr_expect_lt(clients[i].up[j].ticket.compute_ns, 60000000000u, "a clock ran backwards");
            upload_free(&clients[i].up[j]);
        }
    stop(b);
}

/* ---- models with a fixed batch ---- */

Test(batch, a_model_fixed_to_one_image_runs_them_one_by_one)
{
    struct upload up[3];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 1);
    struct batcher *b = batcher(32, 0, 100);
    occupy(1);
    for (unsigned i = 0; i < 3; i++) {
        upload_init(&up[i], i + 1, i, &done);
        submit(b, &up[i]);
    }
    release(1);
    wait_for(&done, 3);
    for (unsigned i = 0; i < 3; i++) {
        expect_own_answer(&up[i]);
        cr_expect_eq(up[i].ticket.batch_size, 1);
        upload_free(&up[i]);
    }
    expect_batches(6, 0, 0, 6);
    stop(b);
}

Test(batch, a_model_fixed_to_four_images_gets_four)
{
    static const unsigned images[] = {1, 2, 6}; /* 4 + 4 + 1, the last filled up */
    struct upload up[3];
    sem_t done;
    sem_init(&done, 0, 0);
    start(2, 4);
    struct batcher *b = batcher(32, 0, 100);
    occupy(2);
    for (unsigned i = 0; i < 3; i++) {
        upload_init(&up[i], images[i], i, &done);
        submit(b, &up[i]);
    }
    release(2);
    wait_for(&done, 3);
    for (unsigned i = 0; i < 3; i++) {
        expect_own_answer(&up[i]);
        upload_free(&up[i]);
    }
    expect_batches(2, 0, 1, 9);
    stop(b);
}

/* ---- tickets that nobody waits for ---- */

Test(batch, expired_and_cancelled_tickets_are_never_computed)
{
    struct upload up[4];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(8, 0, 100);
    occupy(1);
    for (unsigned i = 0; i < 4; i++) {
        upload_init(&up[i], 2, i, &done);
        if (i != 1)
            submit(b, &up[i]);
        while (i == 1 && !submit_within(b, &up[i], 100000000))
            continue;
    }
    up[2].gone = true;
    while (clock_ns() < up[1].ticket.deadline_ns)
        usleep(10000);
    release(1);
    wait_for(&done, 4);
    expect_own_answer(&up[0]);
    expect_own_answer(&up[3]);
    cr_expect_eq(up[1].ticket.outcome, BATCH_EXPIRED);
    cr_expect_eq(up[2].ticket.outcome, BATCH_CANCELLED);
    expect_untouched(&up[1], 0);
    expect_untouched(&up[2], 0);
    cr_expect_eq(up[0].ticket.batch_size, 4);
    expect_batches(0, 0, 1, 4);
    cr_expect_float_eq(metric("convd_queue_wait_seconds_count{model=\"m\"}"), 4, 0.1);
    for (unsigned i = 0; i < 4; i++)
        upload_free(&up[i]);
    stop(b);
}

Test(batch, a_queue_of_the_dead_alone_starts_nothing)
{
    struct upload up[3];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(8, 0, 100);
    occupy(1);
    for (unsigned i = 0; i < 3; i++) {
        upload_init(&up[i], 1, i, &done);
        submit(b, &up[i]);
        up[i].gone = true;
    }
    release(1);
    wait_for(&done, 3);
    for (unsigned i = 0; i < 3; i++) {
        cr_expect_eq(up[i].ticket.outcome, BATCH_CANCELLED);
        upload_free(&up[i]);
    }
    expect_batches(0, 0, 0, 0);
    stop(b);
}

/* The client leaves while the first part of its ticket is computed: a neighbour's done(), which
 * runs after that part was taken, takes the place of the client here. */
static struct upload *leaver;

static void leave(struct batch_ticket *t)
{
    leaver->gone = true;
    on_done(t);
}

Test(batch, the_rest_of_a_split_ticket_is_dropped_too)
{
    struct upload up[3];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(4, 0, 100);
    occupy(1);
    upload_init(&up[0], 1, 0, &done);
    upload_init(&up[1], 10, 1, &done);
    upload_init(&up[2], 1, 2, &done);
    up[0].ticket.done = leave;
    leaver = &up[1];
    for (unsigned i = 0; i < 3; i++)
        submit(b, &up[i]);
    release(1);
    wait_for(&done, 3);
    cr_expect_eq(up[1].ticket.outcome, BATCH_CANCELLED);
    cr_expect_eq(up[1].done_calls, 1);
    expect_untouched(&up[1], 3);
    expect_own_answer(&up[2]);
    expect_batches(1, 0, 1, 5);
    cr_expect_float_eq(metric("convd_queue_wait_seconds_count{model=\"m\"}"), 3, 0.1);
    for (unsigned i = 0; i < 3; i++)
        upload_free(&up[i]);
    stop(b);
}

/* ---- poison ---- */

Test(batch, a_poison_image_spoils_its_own_ticket_alone)
{
    struct upload up[5];
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(16, 0, 100);
    occupy(1);
    for (unsigned i = 0; i < 5; i++)
        upload_init(&up[i], 3, i, &done);
    up[1].input[IN + 3] = NAN; /* the second of three images */
    up[3].input[2 * IN] = INFINITY;
    for (unsigned i = 0; i < 5; i++)
        submit(b, &up[i]);
    release(1);
    wait_for(&done, 5);
    for (unsigned i = 0; i < 5; i++) {
        cr_expect_eq(up[i].ticket.batch_size, 15);
        if (i % 2)
            cr_expect_eq(up[i].ticket.outcome, BATCH_NONFINITE);
        else
            expect_own_answer(&up[i]);
        upload_free(&up[i]);
    }
    stop(b);
}

Test(batch, a_later_part_does_not_make_up_for_poison)
{
    struct upload up;
    sem_t done;
    sem_init(&done, 0, 0);
    start(1, 0);
    struct batcher *b = batcher(4, 0, 100);
    upload_init(&up, 10, 0, &done);
    up.input[0] = NAN;
    submit(b, &up);
    wait_for(&done, 1);
    cr_expect_eq(up.ticket.outcome, BATCH_NONFINITE);
    upload_free(&up);
    stop(b);
}
