/*
 * Fuzz target: an image file. What the gate lets through is decoded to the size it announced,
 * whatever it is decoded to, within the memory and in proportion to the time it announced, and what
 * it announces is in proportion to the picture. A PNG is also tried with its CRCs mended: mutation
 * would hardly ever find them.
 */
#include "tests/fuzz/fuzz.h"

#include "server/image.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

/* Beside what is counted in the budget: zlib's state, the wall's list, a line's rest. */
#define MEMORY_SLACK 65536
/* Sanitizers make decoding up to thirty times slower than the gate's estimate is meant for, and
 * another process may take what is left of a cache: what shows here is work that the estimate does
 * not grow with. */
#define TIME_FACTOR   60
#define TIME_SLACK_NS 20000000u

/* ---- memory in use, where the address sanitizer tells ---- */

static size_t used_bytes, most_bytes;
static bool measuring;

int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *p, size_t n),
                                              void (*on_free)(const volatile void *p))
    __attribute__((weak));
size_t __sanitizer_get_allocated_size(const volatile void *p) __attribute__((weak));

static void allocated(const volatile void *p, size_t bytes)
{
    if (!measuring || !p)
        return;
    used_bytes += bytes;
    most_bytes = used_bytes > most_bytes ? used_bytes : most_bytes;
}

static void freed(const volatile void *p)
{
    if (measuring && p)
        used_bytes -= __sanitizer_get_allocated_size(p);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    if (__sanitizer_install_malloc_and_free_hooks)
        __sanitizer_install_malloc_and_free_hooks(allocated, freed);
    return 0;
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Decodes within the memory that was announced; *took_ns is how long. */
static enum gate_verdict measure(const uint8_t *bytes, size_t len, const struct gate_info *info,
                                 unsigned channels, struct image *image, struct gate_reason *why,
                                 uint64_t *took_ns)
{
    uint64_t begin = cpu_ns();
    used_bytes = most_bytes = 0;
    measuring = true;
    enum gate_verdict verdict = image_decode(bytes, len, info, channels, image, why);
    measuring = false;
    *took_ns = cpu_ns() - begin;
    require(most_bytes <= info->decode_bytes + MEMORY_SLACK);
    return verdict;
}

static void decode(const uint8_t *bytes, size_t len, const struct gate_info *info,
                   unsigned channels)
{
    const uint64_t most_ns = info->cost_ns * TIME_FACTOR + TIME_SLACK_NS;
    struct image image;
    struct gate_reason why = {.text = ""};
    uint64_t took_ns;
    enum gate_verdict verdict = measure(bytes, len, info, channels, &image, &why, &took_ns);
    /* A machine that lends its processors to others may count their time as ours. */
    for (int left = 10; took_ns > most_ns && left > 0; left--) {
        if (verdict == GATE_OK)
            image_free(&image);
        why.text[0] = '\0';
        verdict = measure(bytes, len, info, channels, &image, &why, &took_ns);
    }
    require(took_ns <= most_ns);
    require(verdict == GATE_OK || verdict == GATE_CORRUPT || verdict == GATE_NO_MEMORY);
    require((verdict == GATE_OK) == (why.text[0] == '\0'));
    if (verdict != GATE_OK)
        return;
    require(image.width == info->width && image.height == info->height);
    require(image.channels == channels);
    struct preprocess p;
    float out[3 * 5 * 7];
    preprocess_default(&p, channels, 5, 7);
    p.invert = IMAGE_INVERT_AUTO;
    require(preprocess_run(&p, &image, out));
    image_free(&image);
}

/* Writes the right CRC behind every chunk. */
static void mend_crcs(uint8_t *png, size_t len)
{
    for (size_t at = 8; len - at >= 12;) {
        uint8_t *p = png + at;
        uint32_t chunk = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        if (chunk > len - at - 12)
            return;
        uint32_t crc = (uint32_t)crc32(0, p + 4, chunk + 4);
        for (int i = 0; i < 4; i++)
            p[8 + chunk + (unsigned)i] = (uint8_t)(crc >> (24 - 8 * i));
        at += chunk + 12;
    }
}

static void try_file(const uint8_t *bytes, size_t len)
{
    /* Small enough for many runs a second; the limits do not depend on the size. */
    const struct gate_limits limits = {.max_pixels = 1 << 18, .max_cost_ns = 50000000};
    struct gate_info info;
    struct gate_reason why = {.text = ""};
    enum gate_verdict verdict = gate_image(bytes, len, &limits, &info, &why);
    require((verdict == GATE_OK) == (why.text[0] == '\0'));
    require((verdict == GATE_NOT_AN_IMAGE) == (gate_sniff(bytes, len) == GATE_UNKNOWN));
    if (verdict != GATE_OK)
        return;
    require(info.width > 0 && info.height > 0);
    require((uint64_t)info.width * info.height <= limits.max_pixels);
    require(info.cost_ns <= limits.max_cost_ns);
    /* Nothing is larger than eight planes of 16 bits, and a copy, of whole blocks of 32 x 32. */
    uint64_t blocks = (uint64_t)((info.width + 31) / 32) * ((info.height + 31) / 32);
    require(info.decode_bytes <= blocks * 1024 * 24 + 4 * len + (1 << 18));
    require(info.inflated_bytes <= info.decode_bytes);
    decode(bytes, len, &info, 1);
    decode(bytes, len, &info, 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    /* A copy of exactly that size, so that reading past the end is noticed. */
    uint8_t *exact = calloc(1, len ? len : 1);
    if (!exact)
        return 0;
    if (len > 0)
        memcpy(exact, data, len);
    try_file(exact, len);
    if (gate_sniff(exact, len) == GATE_PNG) {
        mend_crcs(exact, len);
        try_file(exact, len);
    }
    free(exact);
    return 0;
}
