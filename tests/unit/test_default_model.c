/* The digit classifier in the binary, on the held-out MNIST digits that chose it and on the same
 * digits moved and drawn with a thicker pen. */
#include "server/dataset.h"
#include "tests/support/data.h"

#include <convd/session.h>

#include <criterion/criterion.h>

#include <string.h>

enum { SIDE = 28, PIXELS = SIDE * SIDE, HELD_OUT = 5000, BATCH = 100 };

static struct cvd_dataset mnist;

static void load_mnist(void)
{
    struct cvd_error err;
    const char *path = data_shared("data/mnist");
    cr_assert_eq(dataset_load(path, NULL, &mnist, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(mnist.count, 60000);
    cr_assert_eq(mnist.height, SIDE);
    cr_assert_eq(mnist.width, SIDE);
}

static int pixel(const uint8_t *p, int y, int x)
{
    return y < 0 || y >= SIDE || x < 0 || x >= SIDE ? 0 : p[y * SIDE + x];
}

/* The digit moved by (dy, dx); with `thick`, each pixel is the largest of itself and its four
 * neighbours. */
static void draw(const uint8_t *from, int dy, int dx, bool thick, float *to)
{
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            int most = pixel(from, y - dy, x - dx);
            static const int beside[4][2] = {{0, 1}, {0, -1}, {1, 0}, {-1, 0}};
            for (int i = 0; thick && i < 4; i++) {
                const int other = pixel(from, y - dy + beside[i][0], x - dx + beside[i][1]);
                most = other > most ? other : most;
            }
            to[y * SIDE + x] = (float)most * (1.0f / 255);
        }
    }
}

/* Share of the held-out digits that the default model names. */
static double accuracy(int dy, int dx, bool thick)
{
    struct cvd_engine *engine = NULL;
    struct cvd_model *model = NULL;
    struct cvd_session *session = NULL;
    struct cvd_error err;
    static float x[BATCH * PIXELS], y[BATCH * 10];
    size_t right = 0;
    cr_assert_eq(cvd_engine_create(NULL, &engine, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(cvd_model_load_builtin(engine, &model, &err), CVD_STATUS_OK, "%s", err.message);
    cr_assert_eq(cvd_session_create(model, BATCH, &session, &err), CVD_STATUS_OK, "%s",
                 err.message);
    for (size_t first = mnist.count - HELD_OUT; first < mnist.count; first += BATCH) {
        for (size_t i = 0; i < BATCH; i++)
            draw(mnist.pixels + (first + i) * PIXELS, dy, dx, thick, x + i * PIXELS);
        cr_assert_eq(cvd_session_run(session, BATCH, (const void *[]){x}, (void *[]){y}, &err),
                     CVD_STATUS_OK, "%s", err.message);
        for (size_t i = 0; i < BATCH; i++) {
            size_t best = 0;
            for (size_t c = 1; c < 10; c++)
                best = y[i * 10 + c] > y[i * 10 + best] ? c : best;
            right += best == mnist.labels[first + i];
        }
    }
    cvd_session_destroy(session);
    cvd_model_destroy(model);
    cvd_engine_destroy(engine);
    return (double)right / HELD_OUT;
}

static void expect_accuracy(int dy, int dx, bool thick, double least)
{
    const double share = accuracy(dy, dx, thick);
    cr_expect_geq(share, least, "%.2f %% of the digits moved by (%d, %d)%s", 100 * share, dx, dy,
                  thick ? ", thicker" : "");
}

Test(default_model, held_out_digits)
{
    load_mnist();
    expect_accuracy(0, 0, false, 0.993);
    cvd_dataset_free(&mnist);
}

Test(default_model, digits_drawn_differently)
{
    load_mnist();
    expect_accuracy(2, -2, false, 0.985);
    expect_accuracy(-2, 2, false, 0.985);
    expect_accuracy(0, 0, true, 0.97);
    expect_accuracy(2, 1, true, 0.96);
    cvd_dataset_free(&mnist);
}
