/* Preprocessing: defaults, the JSON that changes them, and the values of worked-out inputs. */
#include "server/image.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct preprocess gray(unsigned h, unsigned w)
{
    struct preprocess p;
    preprocess_default(&p, 1, h, w);
    return p;
}

static struct image make(unsigned w, unsigned h, unsigned channels, uint8_t *pixels)
{
    return (struct image){.width = w, .height = h, .channels = channels, .pixels = pixels};
}

Test(preprocess, defaults)
{
    struct preprocess p = gray(28, 28);
    cr_expect(p.color == IMAGE_GRAY && p.resize == IMAGE_SHORTEST_SIDE && p.resize_to == 28);
    cr_expect(p.scale == 1.0f / 255 && p.mean[0] == 0 && p.stddev[0] == 1);
    cr_expect_eq(p.invert, IMAGE_INVERT_NEVER);
    preprocess_default(&p, 3, 224, 224);
    cr_expect(p.color == IMAGE_RGB && p.resize_to == 256 && p.scale == 1.0f / 255);
    cr_expect(p.mean[0] == 0.485f && p.mean[1] == 0.456f && p.mean[2] == 0.406f);
    cr_expect(p.stddev[0] == 0.229f && p.stddev[1] == 0.224f && p.stddev[2] == 0.225f);
    preprocess_default(&p, 3, 299, 299);
    cr_expect_eq(p.resize_to, 341u);
}

Test(preprocess, parses_every_key)
{
    static const char json[] =
        "{\"color\": \"bgr\", \"resize\": \"stretch\", \"resize_to\": 300, \"scale\": 1,"
        " \"mean\": [104, 117, 123], \"std\": 2.5, \"invert\": \"auto\"}";
    struct preprocess p;
    struct cvd_error err;
    preprocess_default(&p, 3, 224, 224);
    cr_assert_eq(preprocess_parse(&p, json, sizeof json - 1, "config.json", &err), CVD_STATUS_OK,
                 "%s", err.message);
    cr_expect(p.color == IMAGE_BGR && p.resize == IMAGE_STRETCH && p.resize_to == 300);
    cr_expect(p.scale == 1 && p.mean[0] == 104 && p.mean[1] == 117 && p.mean[2] == 123);
    cr_expect(p.stddev[0] == 2.5f && p.stddev[1] == 2.5f && p.stddev[2] == 2.5f);
    cr_expect_eq(p.invert, IMAGE_INVERT_AUTO);
    cr_expect_eq(preprocess_parse(&p, "{}", 2, "x", &err), CVD_STATUS_OK);
    cr_expect_eq(p.resize_to, 300u, "what is not named stays");
    cr_expect_eq(preprocess_parse(&p, "{\"resize\":\"none\",\"invert\":\"never\"}", 34, "x", &err),
                 CVD_STATUS_OK);
    cr_expect(p.resize == IMAGE_NO_RESIZE && p.invert == IMAGE_INVERT_NEVER);
}

Test(preprocess, refuses_what_makes_no_sense)
{
    static const struct {
        unsigned channels;
        const char *json, *named;
    } rows[] = {
        {3, "{\"colour\": \"rgb\"}", "colour"},
        {3, "{\"color\": \"gray\"}", "color"},
        {1, "{\"color\": \"rgb\"}", "color"},
        {3, "{\"color\": 3}", "color"},
        {3, "{\"resize\": \"fit\"}", "resize"},
        {3, "{\"resize_to\": 223}", "resize_to"},
        {3, "{\"resize_to\": 16385}", "resize_to"},
        {3, "{\"resize_to\": 256.5}", "resize_to"},
        {3, "{\"resize_to\": \"256\"}", "resize_to"},
        {3, "{\"scale\": 0}", "scale"},
        {3, "{\"scale\": -1}", "scale"},
        {3, "{\"scale\": 1e7}", "scale"},
        {3, "{\"scale\": null}", "scale"},
        {3, "{\"mean\": [1, 2]}", "mean"},
        {3, "{\"mean\": [1, 2, \"3\"]}", "mean"},
        {3, "{\"mean\": 1e9}", "mean"},
        {1, "{\"mean\": [1, 2, 3]}", "mean"},
        {3, "{\"std\": [1, 0, 1]}", "std"},
        {3, "{\"std\": -1}", "std"},
        {3, "{\"invert\": true}", "invert"},
        {3, "{\"scale\": 1, \"scale\": 2}", "JSON"},
        {3, "{\"scale\": 1", "JSON"},
        {3, "[1]", "object"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct preprocess p, before;
        struct cvd_error err = {.message = ""};
        preprocess_default(&p, rows[i].channels, 224, 224);
        before = p;
        cr_expect_eq(
            preprocess_parse(&p, rows[i].json, strlen(rows[i].json), "m/config.json", &err),
            CVD_STATUS_INVALID_ARGUMENT, "%s", rows[i].json);
        cr_expect(strstr(err.message, "m/config.json") && strstr(err.message, rows[i].named),
                  "%s: %s", rows[i].json, err.message);
        cr_expect_eq(memcmp(&p, &before, sizeof p), 0, "unchanged after %s", rows[i].json);
    }
}

Test(preprocess, normalises_to_planes_in_the_models_order)
{
    /* Two pixels: 0 51 102 and 153 204 255, that is 0 .2 .4 and .6 .8 1. */
    uint8_t pixels[] = {0, 51, 102, 153, 204, 255};
    struct image m = make(2, 1, 3, pixels);
    struct preprocess p;
    float out[6];
    preprocess_default(&p, 3, 1, 2);
    for (int c = 0; c < 3; c++)
        p.mean[c] = 0.1f * (float)(c + 1), p.stddev[c] = 0.5f * (float)(c + 1);
    cr_assert(preprocess_run(&p, &m, out));
    static const double rgb[] = {-0.2, 1.0, 0.0, 0.6, 1. / 15, 7. / 15};
    for (int i = 0; i < 6; i++)
        cr_expect(fabs((double)out[i] - rgb[i]) < 1e-6, "RGB %d: %g", i, (double)out[i]);
    p.color = IMAGE_BGR; /* mean and std stay with the model's channels */
    cr_assert(preprocess_run(&p, &m, out));
    static const double bgr[] = {0.6, 1.8, 0.0, 0.6, -0.2, 0.2};
    for (int i = 0; i < 6; i++)
        cr_expect(fabs((double)out[i] - bgr[i]) < 1e-6, "BGR %d: %g", i, (double)out[i]);

    /* A grey picture for a color model is grey in every channel. */
    struct image g = make(2, 1, 1, pixels + 3);
    cr_assert(preprocess_run(&p, &g, out));
    static const double same[] = {1.0, 1.4, 0.4, 0.6, 0.2, 1. / 3};
    for (int i = 0; i < 6; i++)
        cr_expect(fabs((double)out[i] - same[i]) < 1e-6, "grey %d: %g", i, (double)out[i]);

    /* And a color picture for a grey model is its luma. */
    uint8_t colors[] = {200, 100, 50, 255, 255, 255};
    struct image color = make(2, 1, 3, colors);
    p = gray(1, 2);
    cr_assert(preprocess_run(&p, &color, out));
    cr_expect(out[0] == 124 * (1.0f / 255) && out[1] == 255 * (1.0f / 255));
}

/* Where the crop is: columns and rows of known values. `expected` is the value at the corner. */
static void expect_crop(const struct preprocess *p, unsigned w, unsigned h, unsigned x, unsigned y)
{
    uint8_t *pixels = malloc((size_t)w * h);
    for (unsigned i = 0; i < w * h; i++)
        pixels[i] = (uint8_t)(i % w * 3 + i / w * 7);
    struct image m = make(w, h, 1, pixels);
    float *out = malloc(sizeof *out * p->width * p->height);
    cr_assert(preprocess_run(p, &m, out));
    for (unsigned r = 0; r < p->height; r++)
        for (unsigned c = 0; c < p->width; c++)
            cr_expect(out[r * p->width + c] == pixels[(y + r) * w + x + c], "%ux%u at %u, %u: %g",
                      w, h, c, r, (double)out[r * p->width + c]);
    free(out);
    free(pixels);
}

/* An odd remainder is halved to the even side, as Python's round() does. */
Test(preprocess, crops_the_centre)
{
    struct preprocess p = gray(4, 4);
    p.scale = 1;
    p.resize_to = 8;
    expect_crop(&p, 8, 8, 2, 2);
    expect_crop(&p, 11, 8, 4, 2); /* 7 / 2 = 3.5 -> 4 */
    expect_crop(&p, 8, 9, 2, 2);  /* 5 / 2 = 2.5 -> 2 */
    expect_crop(&p, 13, 8, 4, 2); /* 9 / 2 = 4.5 -> 4 */
    p.resize_to = 5;
    expect_crop(&p, 5, 5, 0, 0); /* 1 / 2 = 0.5 -> 0 */
    expect_crop(&p, 5, 7, 0, 2); /* 3 / 2 = 1.5 -> 2 */
}

Test(preprocess, resizes_the_shortest_side)
{
    /* 6x3 to 4x2 and the middle 2x2 of it: columns 1 and 2. */
    uint8_t pixels[18];
    for (int i = 0; i < 18; i++)
        pixels[i] = (uint8_t)(i % 6 < 3 ? 0 : 200);
    struct image m = make(6, 3, 1, pixels);
    struct preprocess p = gray(2, 2);
    float out[16];
    p.scale = 1;
    cr_assert(preprocess_run(&p, &m, out));
    /* Column 1 is centred at 2.25 with a triangle of half width 1.5: pixels 1 … 3 at distances
     * .75, .25 and 1.25, weights .5, .8333, .1667: a ninth of the light side. */
    cr_expect(out[0] == 22 && out[2] == 22, "%g", (double)out[0]);
    cr_expect(out[1] == 178 && out[3] == 178, "%g", (double)out[1]);

    p.resize = IMAGE_STRETCH; /* halves of three columns, with a triangle of half width 3 */
    cr_assert(preprocess_run(&p, &m, out));
    cr_expect(out[0] > 0 && out[0] < 60 && out[1] == 200 - out[0], "%g %g", (double)out[0],
              (double)out[1]);

    p.resize = IMAGE_NO_RESIZE;
    cr_expect_not(preprocess_run(&p, &m, out));
    m = make(2, 2, 1, pixels);
    cr_expect(preprocess_run(&p, &m, out));

    /* A model that is wider than any square of its height: the picture is made wide enough. */
    p = gray(2, 8);
    p.scale = 1;
    m = make(6, 3, 1, pixels);
    cr_assert(preprocess_run(&p, &m, out));
    cr_expect(out[0] == 0 && out[7] == 200 && out[8] == 0 && out[15] == 200);
}

Test(preprocess, an_image_of_the_models_size_is_left_alone)
{
    uint8_t pixels[28 * 28];
    float out[28 * 28];
    struct image m = make(28, 28, 1, pixels);
    struct preprocess p = gray(28, 28);
    p.resize_to = 32;
    for (unsigned i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(i * 7);
    cr_assert(preprocess_run(&p, &m, out));
    for (unsigned i = 0; i < sizeof pixels; i++)
        cr_expect(out[i] == (float)pixels[i] * (1.0f / 255));
}

Test(preprocess, inverts_ink_on_paper)
{
    static const struct {
        uint8_t border, middle;
        bool inverted;
    } rows[] = {{255, 0, true},    {0, 255, false},   {200, 40, true}, {110, 20, true},
                {150, 255, false}, {128, 128, false}, {0, 0, false}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        for (unsigned channels = 1; channels <= 3; channels += 2) {
            uint8_t pixels[75];
            float out[75], values[75], from_values[75];
            for (unsigned i = 0; i < 25 * channels; i++) {
                unsigned x = i / channels % 5, y = i / channels / 5;
                bool border = x == 0 || y == 0 || x == 4 || y == 4;
                values[i] = pixels[i] = border ? rows[r].border : rows[r].middle;
            }
            struct image m = make(5, 5, channels, pixels);
            struct preprocess p;
            preprocess_default(&p, channels, 5, 5);
            p.scale = 1;
            for (int c = 0; c < 3; c++)
                p.mean[c] = 0, p.stddev[c] = 1;
            p.invert = IMAGE_INVERT_AUTO;
            cr_assert(preprocess_run(&p, &m, out));
            uint8_t expected = rows[r].inverted ? (uint8_t)(255 - rows[r].border) : rows[r].border;
            cr_expect(out[0] == expected, "%u around %u: %g", rows[r].border, rows[r].middle,
                      (double)out[0]);
            cr_assert(preprocess_values(&p, values, 5, 5, channels, from_values));
            cr_expect_eq(memcmp(out, from_values, sizeof *out * 25 * channels), 0);
            p.invert = IMAGE_INVERT_NEVER;
            cr_assert(preprocess_run(&p, &m, out));
            cr_expect_eq(out[0], rows[r].border);
        }
    }
}

/* The border is every outermost pixel once, whatever the model's size. */
Test(preprocess, the_border_goes_all_around)
{
    static const unsigned sizes[][2] = {{1, 1}, {1, 7}, {7, 1}, {2, 2},  {2, 5},
                                        {5, 2}, {3, 3}, {4, 6}, {28, 28}};
    unsigned random = 1;
    unsigned inverted = 0, rounds = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (unsigned round = 0; round < 40; round++, rounds++) {
            const unsigned h = sizes[s][0], w = sizes[s][1], channels = round % 2 ? 3 : 1;
            uint8_t pixels[28 * 28 * 3];
            float out[28 * 28 * 3];
            unsigned least = 255, most = 0, sum = 0, count = 0;
            for (unsigned i = 0; i < h * w * channels; i++) {
                unsigned x = i / channels % w, y = i / channels / w;
                random = random * 1103515245 + 12345;
                pixels[i] = (uint8_t)(random >> 16);
                least = pixels[i] < least ? pixels[i] : least;
                most = pixels[i] > most ? pixels[i] : most;
                if (x == 0 || y == 0 || x == w - 1 || y == h - 1)
                    sum += pixels[i], count++;
            }
            bool expected = 2 * sum > (least + most) * count;
            struct image m = make(w, h, channels, pixels);
            struct preprocess p;
            preprocess_default(&p, channels, h, w);
            p.scale = 1;
            for (int c = 0; c < 3; c++)
                p.mean[c] = 0, p.stddev[c] = 1;
            p.invert = IMAGE_INVERT_AUTO;
            cr_assert(preprocess_run(&p, &m, out));
            cr_expect_eq(out[0], (float)(expected ? 255 - pixels[0] : pixels[0]), "%ux%ux%u", h, w,
                         channels);
            inverted += expected;
        }
    }
    cr_expect(inverted > rounds / 4 && inverted < rounds / 4 * 3);
}

/* Numbers behave as the same picture would, bit for bit; fractions count where nothing is mixed. */
Test(preprocess, values_are_pictures)
{
    static const unsigned shapes[][3] = {{6, 6, 1}, {6, 6, 3}, {9, 7, 1}, {9, 7, 3}, {3, 4, 3}};
    for (unsigned model = 1; model <= 3; model += 2) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            unsigned h = shapes[s][0], w = shapes[s][1], c = shapes[s][2];
            uint8_t pixels[9 * 9 * 3];
            float values[9 * 9 * 3], one[108], two[108];
            for (unsigned i = 0; i < h * w * c; i++)
                values[i] = pixels[i] = (uint8_t)(i * i * 31);
            struct image m = make(w, h, c, pixels);
            struct preprocess p;
            preprocess_default(&p, model, 6, 6);
            cr_assert(preprocess_run(&p, &m, one));
            cr_assert(preprocess_values(&p, values, h, w, c, two));
            cr_expect_eq(memcmp(one, two, sizeof *one * 36 * model), 0, "%ux%ux%u for %u", h, w, c,
                         model);
        }
    }
    struct preprocess p = gray(1, 2);
    float out[2];
    p.scale = 1;
    cr_assert(preprocess_values(&p, (const float[]){0.25f, 254.5f}, 1, 2, 1, out));
    cr_expect(out[0] == 0.25f && out[1] == 254.5f);
    p.resize = IMAGE_NO_RESIZE;
    cr_expect_not(preprocess_values(&p, (const float[]){1, 2, 3}, 1, 3, 1, out));
}
