/* Data sets from memory and from disk, and everything that can be wrong with them. */
#include "server/dataset.h"
#include "tests/support/requests.h"

#include <criterion/criterion.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* ---- a scratch folder for each test ---- */

static char folder[] = "/tmp/convd-dataset-XXXXXX";

static void make_scratch(void)
{
    cr_assert_not_null(mkdtemp(folder));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_scratch(void)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *put(const char *name, const void *bytes, size_t len)
{
    const char *path = data_printf("%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, len, file), len);
    cr_assert_eq(fclose(file), 0);
    return path;
}

static void put_folder(const char *name)
{
    cr_assert_eq(mkdir(data_printf("%s/%s", folder, name), 0700), 0);
}

static struct data gzipped(const void *bytes, size_t len)
{
    const char *path = put("scratch.gz", "", 0);
    gzFile z = gzopen(path, "wb");
    cr_assert_not_null(z);
    cr_assert_eq(gzwrite(z, bytes, (unsigned)len), (int)len);
    cr_assert_eq(gzclose(z), Z_OK);
    FILE *file = fopen(path, "rb");
    struct data d = {data_alloc(len + 1000), 0};
    d.len = fread(d.bytes, 1, len + 1000, file);
    fclose(file);
    unlink(path);
    return d;
}

TestSuite(dataset, .init = make_scratch, .fini = remove_scratch);

/* ---- IDX in memory ---- */

/* Two images of 2 rows and 3 columns. */
static const uint8_t idx_images[] = {0, 0, 8, 3, 0, 0, 0, 2, 0,  0,  0,  2,  0,  0,
                                     0, 3, 1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16};
static const uint8_t idx_labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 4, 1};

Test(dataset, idx)
{
    struct cvd_dataset d;
    struct cvd_error err;
    cr_assert_eq(cvd_dataset_from_idx(idx_images, sizeof idx_images, "i", idx_labels,
                                      sizeof idx_labels, "l", &d, &err),
                 CVD_STATUS_OK, "%s", err.message);
    cr_expect_eq(d.count, 2);
    cr_expect_eq(d.height, 2);
    cr_expect_eq(d.width, 3);
    cr_expect_eq(d.classes, 5);
    cr_expect_arr_eq(d.pixels, idx_images + 16, 12);
    cr_expect_eq(d.labels[0], 4);
    cr_expect_eq(d.labels[1], 1);
    cr_expect_str_eq(d.class_names[0], "0");
    cr_expect_str_eq(d.class_names[4], "4");
    cvd_dataset_free(&d);
    cr_expect_null(d.pixels);
    cvd_dataset_free(&d);
}

/* Each case changes one byte of a good pair, or cuts it. */
static void expect_bad_idx(int image_byte, int image_value, size_t images_len, int label_byte,
                           int label_value, size_t labels_len, const char *words)
{
    struct cvd_dataset d = {.count = 99};
    struct cvd_error err = {.message = ""};
    uint8_t *images = malloc(images_len), *labels = malloc(labels_len); /* exact: for ASan */
    for (size_t i = 0; i < images_len; i++)
        images[i] = i < sizeof idx_images ? idx_images[i] : 0;
    for (size_t i = 0; i < labels_len; i++)
        labels[i] = i < sizeof idx_labels ? idx_labels[i] : 0;
    if (image_byte >= 0)
        images[image_byte] = (uint8_t)image_value;
    if (label_byte >= 0)
        labels[label_byte] = (uint8_t)label_value;
    cr_expect_eq(
        cvd_dataset_from_idx(images, images_len, "IMAGES", labels, labels_len, "LABELS", &d, &err),
        CVD_STATUS_INVALID_DATA);
    cr_expect(strstr(err.message, words), "'%s' does not say '%s'", err.message, words);
    cr_expect_eq(d.count, 99, "the output was touched");
    free(images);
    free(labels);
}

Test(dataset, bad_idx)
{
    const size_t il = sizeof idx_images, ll = sizeof idx_labels;
    expect_bad_idx(2, 9, il, -1, 0, ll, "IMAGES: begins with 0x00000903"); /* type */
    expect_bad_idx(3, 1, il, -1, 0, ll, "IMAGES: begins with 0x00000801"); /* dimensions */
    expect_bad_idx(0, 1, il, -1, 0, ll, "IMAGES: begins with 0x01000803");
    expect_bad_idx(-1, 0, il, 3, 3, ll, "LABELS: begins with 0x00000803");
    for (size_t len = 0; len < il; len++) {
        const char *words = len < 4 ? "header" : "truncated";
        expect_bad_idx(-1, 0, len, -1, 0, ll, words);
    }
    for (size_t len = 0; len < ll; len++)
        expect_bad_idx(-1, 0, il, -1, 0, len, len < 4 ? "header" : "truncated");
    expect_bad_idx(-1, 0, il + 1, -1, 0, ll,
                   "IMAGES: its header announces 12 bytes of data, but 13");
    expect_bad_idx(-1, 0, il, -1, 0, ll + 1, "LABELS: its header announces 2 bytes of data, but 3");
    expect_bad_idx(4, 255, il, -1, 0, ll, "truncated"); /* 4 billion images */
    expect_bad_idx(8, 255, il, -1, 0, ll, "truncated");
    expect_bad_idx(7, 0, 16, -1, 0, ll, "IMAGES: holds no data");
    expect_bad_idx(11, 0, 16, -1, 0, ll, "IMAGES: holds no data");
    expect_bad_idx(7, 1, il - 6, -1, 0, ll, "IMAGES holds 1 images, but LABELS 2 labels");
    expect_bad_idx(-1, 0, il, 7, 0, 8, "LABELS: holds no data");
}

Test(dataset, extents_that_overflow)
{
    const uint8_t huge[16] = {0,   0,   8,   3,   255, 255, 255, 255,
                              255, 255, 255, 255, 255, 255, 255, 255};
    struct cvd_dataset d;
    struct cvd_error err;
    cr_expect_eq(
        cvd_dataset_from_idx(huge, sizeof huge, "i", idx_labels, sizeof idx_labels, "l", &d, &err),
        CVD_STATUS_INVALID_DATA);
    cr_expect(strstr(err.message, "truncated"), "%s", err.message);
}

/* ---- IDX on disk ---- */

static void expect_loads(size_t count)
{
    struct cvd_dataset d;
    struct cvd_error err = {.message = ""};
    cr_assert_eq(dataset_load(folder, NULL, &d, &err), CVD_STATUS_OK, "%s", err.message);
    cr_expect_eq(d.count, count);
    cvd_dataset_free(&d);
}

static void expect_fails(enum cvd_status status, const char *words)
{
    struct cvd_dataset d;
    struct cvd_error err = {.message = ""};
    cr_expect_eq(dataset_load(folder, NULL, &d, &err), status, "%s", err.message);
    cr_expect(strstr(err.message, words), "'%s' does not say '%s'", err.message, words);
}

Test(dataset, plain_files)
{
    put("train-images-idx3-ubyte", idx_images, sizeof idx_images);
    put("train-labels-idx1-ubyte", idx_labels, sizeof idx_labels);
    expect_loads(2);
}

Test(dataset, compressed_files_and_dots)
{
    const struct data images = gzipped(idx_images, sizeof idx_images);
    const struct data labels = gzipped(idx_labels, sizeof idx_labels);
    put("train-images.idx3-ubyte.gz", images.bytes, images.len);
    put("train-labels-idx1-ubyte.gz", labels.bytes, labels.len);
    expect_loads(2);
}

Test(dataset, damaged_compressed_files)
{
    const struct data images = gzipped(idx_images, sizeof idx_images);
    put("train-labels-idx1-ubyte", idx_labels, sizeof idx_labels);
    for (size_t len = 0; len < images.len; len++) {
        put("train-images-idx3-ubyte.gz", images.bytes, len);
        expect_fails(CVD_STATUS_INVALID_DATA, "train-images-idx3-ubyte.gz: truncated gzip data");
    }
    images.bytes[images.len - 6] ^= 1; /* the checksum */
    put("train-images-idx3-ubyte.gz", images.bytes, images.len);
    expect_fails(CVD_STATUS_INVALID_DATA, "train-images-idx3-ubyte.gz: corrupt gzip data");
    put("train-images-idx3-ubyte.gz", idx_images, sizeof idx_images);
    expect_fails(CVD_STATUS_INVALID_DATA, "train-images-idx3-ubyte.gz: corrupt gzip data");
}

/* A gigabyte and a bit of zeros, in a megabyte. */
Test(dataset, compressed_bomb)
{
    const char *path = put("train-images-idx3-ubyte.gz", "", 0);
    gzFile z = gzopen(path, "wb1");
    static char zeros[1 << 20];
    for (int i = 0; i < 1025; i++)
        cr_assert_eq(gzwrite(z, zeros, sizeof zeros), (int)sizeof zeros);
    gzclose(z);
    put("train-labels-idx1-ubyte", idx_labels, sizeof idx_labels);
    expect_fails(CVD_STATUS_INVALID_DATA, "decompresses to more than 1073741824 bytes");
}

Test(dataset, missing_files)
{
    expect_fails(CVD_STATUS_INVALID_DATA, "holds neither");
    put("train-images-idx3-ubyte", idx_images, sizeof idx_images);
    expect_fails(CVD_STATUS_INVALID_DATA, "train-labels-idx1-ubyte is missing");
    unlink(data_printf("%s/train-images-idx3-ubyte", folder));
    put("train-labels-idx1-ubyte", idx_labels, sizeof idx_labels);
    expect_fails(CVD_STATUS_INVALID_DATA, "train-images-idx3-ubyte is missing");

    struct cvd_dataset d;
    struct cvd_error err;
    cr_expect_eq(dataset_load("/tmp/convd-there-is-no-such", NULL, &d, &err), CVD_STATUS_IO);
    cr_expect(strstr(err.message, "No such file"), "%s", err.message);
    cr_expect_eq(dataset_load(put("file", "x", 1), NULL, &d, &err), CVD_STATUS_IO);
    cr_expect(strstr(err.message, "is not a folder"), "%s", err.message);
}

/* Opening one would wait for a writer. */
Test(dataset, pipes)
{
    cr_assert_eq(mkfifo(data_printf("%s/train-images-idx3-ubyte", folder), 0600), 0);
    put("train-labels-idx1-ubyte", idx_labels, sizeof idx_labels);
    expect_fails(CVD_STATUS_IO, "train-images-idx3-ubyte: not a regular file");
}

/* ---- folders of images ---- */

static void put_gray(const char *name, unsigned width, unsigned height, uint8_t ground,
                     uint8_t middle)
{
    uint8_t *pixels = data_alloc(width * height);
    memset(pixels, ground, width * height);
    pixels[height / 2 * width + width / 2] = middle;
    const struct data png = make_png(pixels, width, height, 1);
    put(name, png.bytes, png.len);
}

Test(dataset, image_folders)
{
    put_folder("10");
    put_folder("9");
    put_folder(".hidden");
    put("readme.txt", "beside the folders: ignored", 5);
    put("9/.directory", "hidden: ignored", 5);
    put_gray("9/a.png", 14, 16, 0, 91);
    put_gray("9/b2.png", 14, 16, 0, 92);
    put_gray("9/b10.png", 14, 16, 0, 93);
    put_gray("9/c.png", 14, 16, 255, 161); /* dark on light: turned into its negative, 94 */
    put_gray("10/a.png", 14, 16, 0, 101);
    put_gray("10/b.png", 14, 16, 0, 102);

    struct cvd_dataset d;
    struct cvd_error err = {.message = ""};
    cr_assert_eq(dataset_load(folder, NULL, &d, &err), CVD_STATUS_OK, "%s", err.message);
    cr_expect_eq(d.classes, 2);
    cr_expect_str_eq(d.class_names[0], "9", "natural order");
    cr_expect_str_eq(d.class_names[1], "10");
    cr_expect_eq(d.width, 14);
    cr_expect_eq(d.height, 16);
    cr_assert_eq(d.count, 6);
    /* Places 1/8, 3/8, 5/8, 7/8 of class 9 and 1/4, 3/4 of class 10. */
    static const unsigned middles[6] = {91, 101, 92, 93, 102, 94};
    static const unsigned labels[6] = {0, 1, 0, 0, 1, 0};
    for (size_t i = 0; i < 6; i++) {
        const uint8_t *p = d.pixels + i * 14 * 16;
        cr_expect_eq(p[8 * 14 + 7], middles[i], "image %zu: %u", i, p[8 * 14 + 7]);
        cr_expect_eq(p[0], 0);
        cr_expect_eq(d.labels[i], labels[i]);
    }
    cvd_dataset_free(&d);
}

Test(dataset, images_of_different_sizes)
{
    put_folder("a");
    put_folder("b");
    put_gray("a/1.png", 14, 16, 0, 255);
    put_gray("b/1.png", 100, 50, 0, 255);
    struct cvd_dataset d;
    struct cvd_error err = {.message = ""};
    cr_assert_eq(dataset_load(folder, NULL, &d, &err), CVD_STATUS_OK, "%s", err.message);
    cr_expect_eq(d.width, 28);
    cr_expect_eq(d.height, 28);
    unsigned most = 0;
    for (size_t i = 0; i < 28 * 28; i++)
        most = d.pixels[i] > most ? d.pixels[i] : most;
    cr_expect_gt(most, 50, "the dot of the first image is gone");
    cvd_dataset_free(&d);
}

Test(dataset, images_too_small_or_large_to_train)
{
    put_folder("a");
    put_folder("b");
    put_gray("a/1.png", 300, 300, 0, 255);
    put_gray("b/1.png", 300, 300, 0, 255);
    struct cvd_dataset d;
    struct cvd_error err = {.message = ""};
    cr_assert_eq(dataset_load(folder, NULL, &d, &err), CVD_STATUS_OK, "%s", err.message);
    cr_expect_eq(d.width, 28);
    cr_expect_eq(d.height, 28);
    cvd_dataset_free(&d);
}

Test(dataset, files_that_are_no_images)
{
    uint8_t gray[16 * 16] = {0};
    const struct data png = make_png(gray, 16, 16, 1);
    put_folder("a");
    put_folder("b");
    put_gray("a/1.png", 16, 16, 0, 255);
    put("b/notes.txt", "no image", 8);
    expect_fails(CVD_STATUS_INVALID_DATA, "/b/notes.txt: ");
    unlink(data_printf("%s/b/notes.txt", folder));
    put("b/cut.png", png.bytes, png.len - 20);
    expect_fails(CVD_STATUS_INVALID_DATA, "/b/cut.png: ");
    unlink(data_printf("%s/b/cut.png", folder));
    put("b/damaged.png", png.bytes, png.len);
    expect_loads(2);
    png.bytes[png.len / 2 + 4] ^= 0x55;
    put("b/damaged.png", png.bytes, png.len);
    expect_fails(CVD_STATUS_INVALID_DATA, "/b/damaged.png: ");
    put("b/damaged.png", "", 0);
    expect_fails(CVD_STATUS_INVALID_DATA, "/b/damaged.png: ");
    unlink(data_printf("%s/b/damaged.png", folder));
    put_folder("b/deeper");
    expect_fails(CVD_STATUS_IO, "/b/deeper: ");
}

Test(dataset, empty_or_single_classes)
{
    put_folder("a");
    put_gray("a/1.png", 16, 16, 0, 255);
    expect_fails(CVD_STATUS_INVALID_DATA, "two or more classes");
    put_folder("b");
    expect_fails(CVD_STATUS_INVALID_DATA, "/b: holds no images");
}
