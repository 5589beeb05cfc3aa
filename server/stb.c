/*
 * The one translation unit that contains stb_image, and the wall around it.
 *
 * - Its memory comes from the pool, counted against a budget and listed, so that whatever way it
 *   ends, nothing leaks. Buffers are zeroed: what the file leaves unset never shows old memory.
 * - Its assertions and, in builds without a sanitizer, the compiler's checks of array bounds and
 *   signed overflow end the decoding with an error instead of the process.
 * - PNG data is inflated by zlib: faster, checks the Adler-32 sum, fills exactly the room there is.
 */
#include "server/stb.h"

#include "server/pool.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* stb_image holds a dozen blocks at a time: three for each of four JPEG components and some more.
 */
enum { MAX_BLOCKS = 24 };

struct wall {
    struct block {
        void *p;
        size_t bytes;
    } block[MAX_BLOCKS];
    size_t used_bytes, inflated_bytes, max_bytes;
    bool no_memory;
    jmp_buf escape;
};

/* stb_image's hooks have no argument of ours. Set only while stb_decode() runs on this thread. */
static _Thread_local struct wall *wall;

static struct block *find_block(const void *p)
{
    for (int i = 0; i < MAX_BLOCKS; i++) {
        if (wall->block[i].p == p) {
            return &wall->block[i];
        }
    }
    return NULL;
}

/* A larger block for p other than NULL, else a zeroed one. */
static void *wall_realloc(void *p, size_t bytes)
{
    struct block *b = find_block(p); /* NULL: a free entry */
    if (b == NULL || bytes > wall->max_bytes - (wall->used_bytes - b->bytes)) {
        return NULL;
    }
    void *got = p ? pool_grow(p, b->bytes, bytes) : pool_alloc_zeroed(bytes ? bytes : 1);
    if (got == NULL) {
        wall->no_memory = true;
        return NULL;
    }
    if (p && bytes > b->bytes) {
        memset((char *)got + b->bytes, 0, bytes - b->bytes);
    }
    wall->used_bytes += bytes - b->bytes;
    *b = (struct block){got, bytes};
    return got;
}

static void wall_free(void *p)
{
    struct block *b = p ? find_block(p) : NULL;
    if (b) {
        wall->used_bytes -= b->bytes;
        *b = (struct block){0};
        pool_free(p);
    }
}

static _Noreturn void wall_escape(void)
{
    longjmp(wall->escape, 1);
}

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_ZLIB            /* stbi_zlib_decode_… below is ours */
#define STBI_NO_FAILURE_STRINGS /* one of them is a writable static buffer */
#define STBI_MAX_DIMENSIONS     16384
#define STBI_MALLOC(n)          wall_realloc(NULL, n)
#define STBI_REALLOC(p, n)      wall_realloc(p, n)
#define STBI_FREE(p)            wall_free(p)
#define STBI_ASSERT(x)          ((x) ? (void)0 : wall_escape())
#ifdef __ARM_NEON
#define STBI_NEON
#endif
#include <stb_image.h>

/*
 * Data is fed in pieces, and the output may not fall behind the input by more than a piece:
 * deflate stores what it cannot shrink, so only empty blocks do that, which cost time and give
 * nothing.
 */
static bool inflate_exactly(z_stream *z, const uint8_t *data, size_t len, size_t want)
{
    const size_t piece_bytes = 64 * 1024;
    int code = Z_OK;
    while (code == Z_OK && len > 0) {
        size_t piece = len < piece_bytes ? len : piece_bytes;
        z->next_in = (z_const Bytef *)data;
        z->avail_in = (uInt)piece;
        data += piece;
        len -= piece;
        code = inflate(z, len ? Z_NO_FLUSH : Z_FINISH);
        if (code == Z_OK && (z->avail_in > 0 || z->total_in > z->total_out + piece_bytes)) {
            return false;
        }
    }
    return code == Z_STREAM_END && z->total_out == want;
}

STBIDEF char *stbi_zlib_decode_malloc_guesssize_headerflag(const char *buffer, int len,
                                                           int initial_size, int *outlen,
                                                           int parse_header)
{
    (void)initial_size;
    (void)parse_header;
    z_stream z = {.zalloc = pool_zalloc, .zfree = pool_zfree};
    char *out = wall_realloc(NULL, wall->inflated_bytes);
    if (out == NULL || inflateInit(&z) != Z_OK) {
        wall->no_memory |= out != NULL;
        wall_free(out);
        return NULL;
    }
    z.next_out = (Bytef *)out;
    z.avail_out = (uInt)wall->inflated_bytes;
    bool ok = inflate_exactly(&z, (const uint8_t *)buffer, (size_t)len, wall->inflated_bytes);
    inflateEnd(&z);
    if (!ok) {
        wall_free(out);
        return NULL;
    }
    *outlen = (int)wall->inflated_bytes;
    return out;
}

#ifdef STB_CATCH_UNDEFINED
/* What the compiler calls where -fsanitize=bounds,signed-integer-overflow finds a violation, when
 * there is no sanitizer library. The names and arguments are the compilers' interface. */
#define CATCH(name, ...)                                       \
    _Noreturn void __ubsan_handle_##name##_abort(__VA_ARGS__); \
    _Noreturn void __ubsan_handle_##name##_abort(__VA_ARGS__)  \
    {                                                          \
        wall_escape();                                         \
    }
CATCH(out_of_bounds, void *data, void *index)
CATCH(add_overflow, void *data, void *a, void *b)
CATCH(sub_overflow, void *data, void *a, void *b)
CATCH(mul_overflow, void *data, void *a, void *b)
CATCH(divrem_overflow, void *data, void *a, void *b)
CATCH(negate_overflow, void *data, void *a)
#endif

enum stb_result stb_decode(const uint8_t *bytes, size_t len, const struct stb_limits *limits,
                           int channels, unsigned *width, unsigned *height, uint8_t **pixels)
{
    struct wall w = {.max_bytes = limits->bytes, .inflated_bytes = limits->inflated_bytes};
    wall = &w;
    /* volatile: set between setjmp() and a longjmp(), read after it. */
    stbi_uc *volatile got = NULL;
    int x = 0, y = 0;
    if (setjmp(w.escape) == 0) {
        int in_file;
        got = stbi_load_from_memory(bytes, (int)len, &x, &y, &in_file, channels);
    }
    for (int i = 0; i < MAX_BLOCKS; i++) {
        if (w.block[i].p != got) {
            pool_free(w.block[i].p);
        }
    }
    wall = NULL;
    if (got == NULL) {
        return w.no_memory ? STB_NO_MEMORY : STB_CORRUPT;
    }
    *width = (unsigned)x;
    *height = (unsigned)y;
    *pixels = got;
    return STB_OK;
}
