/* Pixels -> a model's input: color, resize, crop, invert, normalise; and the JSON that says how. */
#include "server/image.h"
#include "server/pool.h"
#include "server/resize.h"
#include "server/strict_json.h"

#include <math.h>
#include <string.h>

static unsigned shorter(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

void preprocess_default(struct preprocess *p, unsigned channels, unsigned height, unsigned width)
{
    *p = (struct preprocess){
        .channels = channels,
        .height = height,
        .width = width,
        .color = channels == 1 ? IMAGE_GRAY : IMAGE_RGB,
        .resize = IMAGE_SHORTEST_SIDE,
        .resize_to = shorter(height, width),
        .scale = 1.0f / 255.0f,
        .stddev = {1, 1, 1},
    };
    if (channels == 3) {
        static const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
        memcpy(p->mean, mean, sizeof mean);
        memcpy(p->stddev, std, sizeof std);
        p->resize_to = (unsigned)((uint64_t)p->resize_to * 256 / 224);
    }
}

/* ---------------------------------------------------------------- configuration */

struct parser {
    struct preprocess *p;
    const char *where;
    struct cvd_error *err;
};

static enum cvd_status wrong(const struct parser *c, const char *key, const char *expected)
{
    return cvd_error_set(c->err, CVD_STATUS_INVALID_ARGUMENT, "%s: \"%s\" must be %s", c->where,
                         key, expected);
}

/* Index of a string in a NULL-ended list, or -1. */
static int choose(const json_t *value, const char *const names[])
{
    const char *text = json_string_value(value);
    for (int i = 0; text && names[i]; i++) {
        if (strcmp(text, names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

/* A number, or one for each channel. */
static bool channel_numbers(const json_t *value, unsigned channels, double least, float out[3])
{
    bool list = json_is_array(value);
    if (list && json_array_size(value) != channels) {
        return false;
    }
    for (unsigned i = 0; i < channels; i++) {
        const json_t *item = list ? json_array_get(value, i) : value;
        double number = json_number_value(item);
        if (!json_is_number(item) || !(number >= least) || !(fabs(number) <= 1e6)) {
            return false;
        }
        out[i] = (float)number;
    }
    return true;
}

static enum cvd_status parse_color(const struct parser *c, const json_t *value)
{
    static const char *const names[] = {"rgb", "bgr", "gray", NULL};
    static const enum image_color colors[] = {IMAGE_RGB, IMAGE_BGR, IMAGE_GRAY};
    int i = choose(value, names);
    if (i < 0) {
        return wrong(c, "color", "\"rgb\", \"bgr\" or \"gray\"");
    }
    if ((colors[i] == IMAGE_GRAY) != (c->p->channels == 1)) {
        return wrong(c, "color",
                     c->p->channels == 1 ? "\"gray\" for a model with one channel"
                                         : "\"rgb\" or \"bgr\" for a model with three channels");
    }
    c->p->color = colors[i];
    return CVD_STATUS_OK;
}

static enum cvd_status parse_resize(const struct parser *c, const json_t *value)
{
    static const char *const names[] = {"shortest_side", "stretch", "none", NULL};
    static const enum image_resize ways[] = {IMAGE_SHORTEST_SIDE, IMAGE_STRETCH, IMAGE_NO_RESIZE};
    int i = choose(value, names);
    if (i < 0) {
        return wrong(c, "resize", "\"shortest_side\", \"stretch\" or \"none\"");
    }
    c->p->resize = ways[i];
    return CVD_STATUS_OK;
}

static enum cvd_status parse_resize_to(const struct parser *c, const json_t *value)
{
    unsigned least = shorter(c->p->height, c->p->width);
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < (json_int_t)least || n > (json_int_t)GATE_MAX_SIDE) {
        return cvd_error_set(
            c->err, CVD_STATUS_INVALID_ARGUMENT,
            "%s: \"resize_to\" must be a whole number from %u, the model's shorter "
            "side, to %u",
            c->where, least, GATE_MAX_SIDE);
    }
    c->p->resize_to = (unsigned)n;
    return CVD_STATUS_OK;
}

static enum cvd_status parse_scale(const struct parser *c, const json_t *value)
{
    double n = json_number_value(value);
    if (!json_is_number(value) || !(n >= 1e-6) || !(n <= 1e6)) {
        return wrong(c, "scale", "a number from 1e-6 to 1e6");
    }
    c->p->scale = (float)n;
    return CVD_STATUS_OK;
}

static enum cvd_status parse_mean(const struct parser *c, const json_t *value)
{
    if (!channel_numbers(value, c->p->channels, -1e6, c->p->mean)) {
        return wrong(c, "mean", "a number from -1e6 to 1e6, or a list of one for each channel");
    }
    return CVD_STATUS_OK;
}

static enum cvd_status parse_std(const struct parser *c, const json_t *value)
{
    if (!channel_numbers(value, c->p->channels, 1e-6, c->p->stddev)) {
        return wrong(c, "std", "a number from 1e-6 to 1e6, or a list of one for each channel");
    }
    return CVD_STATUS_OK;
}

static enum cvd_status parse_invert(const struct parser *c, const json_t *value)
{
    static const char *const names[] = {"never", "auto", NULL};
    int i = choose(value, names);
    if (i < 0) {
        return wrong(c, "invert", "\"never\" or \"auto\"");
    }
    c->p->invert = i == 0 ? IMAGE_INVERT_NEVER : IMAGE_INVERT_AUTO;
    return CVD_STATUS_OK;
}

static enum cvd_status parse_key(const struct parser *c, const char *key, const json_t *value)
{
    static const struct {
        const char *key;
        enum cvd_status (*parse)(const struct parser *c, const json_t *value);
    } keys[] = {{"color", parse_color},  {"resize", parse_resize}, {"resize_to", parse_resize_to},
                {"scale", parse_scale},  {"mean", parse_mean},     {"std", parse_std},
                {"invert", parse_invert}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(key, keys[i].key) == 0) {
            return keys[i].parse(c, value);
        }
    }
    return cvd_error_set(c->err, CVD_STATUS_INVALID_ARGUMENT,
                         "%s: unknown key \"%.40s\"; there are color, resize, resize_to, scale, "
                         "mean, std and invert",
                         c->where, key);
}

enum cvd_status preprocess_parse(struct preprocess *p, const char *json, size_t len,
                                 const char *where, struct cvd_error *err)
{
    struct strict_json doc;
    struct preprocess parsed = *p;
    const struct parser c = {&parsed, where, err};
    enum cvd_status status = CVD_STATUS_OK;
    if (!strict_json_read(&doc, json, len)) {
        status = doc.no_memory
                     ? cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "%s: no memory", where)
                     : cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT,
                                     "%s: not valid JSON (line %d): %s", where, doc.fault.line,
                                     doc.fault.text);
    } else if (!json_is_object(doc.root)) {
        status =
            cvd_error_set(err, CVD_STATUS_INVALID_ARGUMENT, "%s: must be a JSON object", where);
    }
    const char *key;
    json_t *value;
    json_object_foreach(doc.root, key, value)
    {
        status = parse_key(&c, key, value);
        if (status != CVD_STATUS_OK) {
            break;
        }
    }
    strict_json_free(&doc);
    if (status == CVD_STATUS_OK) {
        *p = parsed;
    }
    return status;
}

/* ---------------------------------------------------------------- pixels */

/* Half of d, .5 to the even neighbour: where torchvision and Keras put the centre crop. */
static unsigned half_even(unsigned d)
{
    return d / 2 + (d & d / 2 & 1);
}

/* Size to resize to. A side that would come out shorter than the model's is made to fit, so that
 * the crop never needs pixels from outside. */
static void resized_size(const struct preprocess *p, const struct image *image, unsigned *width,
                         unsigned *height)
{
    uint64_t w = image->width, h = image->height;
    if (p->resize == IMAGE_STRETCH) {
        *width = p->width;
        *height = p->height;
        return;
    }
    uint64_t side = w < h ? w : h;
    uint64_t new_w = w * p->resize_to / side, new_h = h * p->resize_to / side;
    if (new_w < p->width || new_h < p->height) {
        bool by_width = (uint64_t)p->width * h >= (uint64_t)p->height * w;
        new_w = by_width ? p->width : w * p->height / h;
        new_h = by_width ? h * p->width / w : p->height;
    }
    *width = (unsigned)new_w;
    *height = (unsigned)new_h;
}

static uint64_t sum_of(const uint8_t *bytes, size_t count)
{
    unsigned sum = 0; /* of a row at most: GATE_MAX_SIDE pixels */
    for (size_t i = 0; i < count; i++) {
        sum += bytes[i];
    }
    return sum;
}

/* Whether the border is nearer to the lightest pixel than to the darkest. */
static bool border_is_light(const struct preprocess *p, const uint8_t *pixels, unsigned channels)
{
    const size_t row = (size_t)p->width * channels, count = row * p->height;
    const size_t inner_rows = p->height > 2 ? p->height - 2 : 0;
    const size_t sides = p->width > 1 ? 2 : 1;
    uint8_t least = 255, most = 0;
    for (size_t i = 0; i < count; i++) {
        least = pixels[i] < least ? pixels[i] : least;
        most = pixels[i] > most ? pixels[i] : most;
    }
    uint64_t sum = sum_of(pixels, row);
    if (p->height > 1) {
        sum += sum_of(pixels + count - row, row);
    }
    for (size_t y = 1; y <= inner_rows; y++) {
        sum += sum_of(pixels + y * row, channels);
        if (sides > 1) {
            sum += sum_of(pixels + (y + 1) * row - channels, channels);
        }
    }
    const size_t border = (p->height > 1 ? 2 * row : row) + inner_rows * sides * channels;
    return 2 * sum > (uint64_t)(least + most) * border;
}

/* Which of a picture's channels is the model's channel c. */
static unsigned source_channel(const struct preprocess *p, unsigned channels, unsigned c)
{
    if (channels == 1) {
        return 0;
    }
    return p->color == IMAGE_BGR ? 2 - c : c;
}

/* What each byte becomes. */
static void normalise_table(const struct preprocess *p, unsigned c, bool negative, float table[256])
{
    const float scale = p->scale, mean = p->mean[c], stddev = p->stddev[c];
    for (int i = 0; i < 256; i++) {
        table[i] = ((float)(negative ? 255 - i : i) * scale - mean) / stddev;
    }
}

/* Interleaved bytes of the model's size -> planes of floats. */
static void normalise_bytes(const struct preprocess *p, const uint8_t *pixels, unsigned channels,
                            float *out)
{
    bool negative = p->invert == IMAGE_INVERT_AUTO && border_is_light(p, pixels, channels);
    size_t count = (size_t)p->width * p->height;
    for (unsigned c = 0; c < p->channels; c++) {
        float table[256];
        normalise_table(p, c, negative, table);
        const uint8_t *in = pixels + source_channel(p, channels, c);
        for (size_t i = 0; i < count; i++) {
            *out++ = table[in[i * channels]];
        }
    }
}

/* Every stride-th of the values, as normalise_table() does bytes. */
static void normalise_values(const struct preprocess *p, unsigned c, bool negative,
                             const float *values, size_t stride, size_t count, float *restrict out)
{
    const float scale = p->scale, mean = p->mean[c], stddev = p->stddev[c];
    for (size_t i = 0; i < count; i++) {
        float value = values[i * stride];
        out[i] = ((negative ? 255.0f - value : value) * scale - mean) / stddev;
    }
}

/* A picture with the number of channels that the model is fed from; see preprocess_run(). */
static bool run_converted(const struct preprocess *p, const struct image *image, float *out)
{
    if (image->width == p->width && image->height == p->height) {
        normalise_bytes(p, image->pixels, image->channels, out);
        return true;
    }
    if (p->resize == IMAGE_NO_RESIZE) {
        return false;
    }
    uint8_t *pixels = pool_alloc((size_t)p->width * p->height * image->channels);
    unsigned width, height;
    resized_size(p, image, &width, &height);
    struct resize_window window = {half_even(width - p->width), half_even(height - p->height),
                                   p->width, p->height};
    bool ok = pixels && resize_bilinear(image, width, height, &window, pixels);
    if (ok) {
        normalise_bytes(p, pixels, image->channels, out);
    }
    pool_free(pixels);
    return ok;
}

bool preprocess_run(const struct preprocess *p, const struct image *image, float *out)
{
    if (p->channels != 1 || image->channels == 1) {
        return run_converted(p, image, out);
    }
    struct image gray = *image;
    size_t count = (size_t)image->width * image->height;
    gray.channels = 1;
    gray.pixels = pool_alloc(count);
    if (gray.pixels == NULL) {
        return false;
    }
    image_luma(image->pixels, count, gray.pixels);
    bool ok = run_converted(p, &gray, out);
    pool_free(gray.pixels);
    return ok;
}

bool preprocess_values(const struct preprocess *p, const float *values, unsigned height,
                       unsigned width, unsigned channels, float *out)
{
    size_t pixels = (size_t)width * height;
    bool direct =
        width == p->width && height == p->height && (channels == 1 || channels == p->channels);
    struct image image = {.width = width, .height = height, .channels = channels};
    if (!direct || p->invert == IMAGE_INVERT_AUTO) {
        image.pixels = pool_alloc(pixels * channels);
        if (image.pixels == NULL) {
            return false;
        }
        for (size_t i = 0; i < pixels * channels; i++) {
            image.pixels[i] = (uint8_t)(values[i] + 0.5f);
        }
    }
    bool ok = true;
    if (direct) {
        bool negative = image.pixels && border_is_light(p, image.pixels, channels);
        for (unsigned c = 0; c < p->channels; c++) {
            normalise_values(p, c, negative, values + source_channel(p, channels, c), channels,
                             pixels, out);
            out += pixels;
        }
    } else {
        ok = preprocess_run(p, &image, out);
    }
    pool_free(image.pixels);
    return ok;
}
