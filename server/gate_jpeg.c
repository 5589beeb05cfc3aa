/*
 * The gate for JPEG (ITU-T T.81): walks every marker segment to the end-of-image marker.
 *
 * The decoder behind it trusts Huffman tables further than it should, decodes zeros where data is
 * missing, stops quietly where a restart marker is not, and repeats its work for every scan. So
 * each table is checked before it may be used, each scan must refer to tables and components that
 * exist, must have the restart markers and at least the bits that its blocks need, and its work is
 * added up. Baseline, extended and progressive Huffman files of 8 bits and 1, 3 or 4 components go
 * through.
 */
#include "server/gate_image.h"

#include <string.h>

/*
 * What decoding costs, in ns, measured with the decoder at -O2: a block of coefficients with its
 * inverse transform; of a progressive file, a block in each scan, each of the scan's coefficients
 * in it, and the final transform; for every pixel, upsampling and color conversion; and each byte
 * of entropy-coded data. Photographs take three quarters of the estimate, noise as much, and files
 * made to be slow (long codes in data that is missing) up to two and a half times as much.
 */
enum {
    COST_BASELINE_BLOCK = 400,
    COST_SCAN_BLOCK = 4,
    COST_SCAN_COEFFICIENT = 4,
    COST_TRANSFORM = 60,
    COST_PIXEL = 3,
    COST_BYTE = 10
};

/* The decoder's own state, and room for its alignment of each buffer. */
enum { DECODER_BYTES = 32 * 1024 };

struct component {
    uint8_t id, h, v, quantizer;
    bool seen;              /* some scan has its (DC) coefficients */
    uint32_t blocks;        /* of a scan of its own */
    uint32_t padded_blocks; /* of interleaved scans, whole MCUs */
};

struct jpeg {
    const uint8_t *bytes;
    size_t len, at;
    const struct gate_limits *limits;
    struct gate_info *info;
    struct gate_reason *why;
    bool has_frame, progressive;
    unsigned components;
    struct component component[4];
    uint32_t mcus;                             /* of an interleaved scan */
    unsigned restart_interval;                 /* MCUs, 0 = none */
    unsigned quantizers, dc_tables, ac_tables; /* bit n: table n is defined */
    unsigned scans;
};

/* One scan's header, as far as the counting of its work needs it. */
struct scan {
    unsigned components;
    struct component *component[4];
    unsigned from, to, high, low;
};

static enum gate_verdict corrupt_at(const struct jpeg *j, size_t at, const char *what)
{
    return gate_refuse(j->why, GATE_CORRUPT, "the JPEG has %s at byte %zu", what, at);
}

static enum gate_verdict cut_short(const struct jpeg *j)
{
    return gate_refuse(j->why, GATE_CORRUPT,
                       "the JPEG is cut short: no end-of-image marker in %zu bytes", j->len);
}

/* DHT: B.2.4.2. A code of n bits has n-bit numbers to live in; what the shorter codes have taken
 * is gone. */
static enum gate_verdict read_huffman(struct jpeg *j, const uint8_t *p, size_t len)
{
    while (len > 0) {
        size_t at = (size_t)(p - j->bytes);
        if (len < 17) {
            return corrupt_at(j, at, "a Huffman table that is cut off");
        }
        unsigned class = p[0] >> 4, id = p[0] & 15, symbols = 0, codes = 0;
        if (class > 1 || id > 3) {
            return corrupt_at(j, at, "a Huffman table with an unknown class or number");
        }
        for (unsigned bits = 1; bits <= 16; bits++) {
            symbols += p[bits];
            codes = codes * 2 + p[bits];
            if (codes > 1u << bits) {
                return corrupt_at(j, at,
                                  "a Huffman table with more codes than their length allows");
            }
        }
        if (symbols > 256 || symbols > len - 17) {
            return corrupt_at(j, at, "a Huffman table with too many symbols");
        }
        for (unsigned i = 0; class == 0 && i < symbols; i++) {
            if (p[17 + i] > 15) {
                return corrupt_at(j, at, "a DC Huffman table with a symbol above 15");
            }
        }
        *(class ? &j->ac_tables : &j->dc_tables) |= 1u << id;
        p += 17 + symbols;
        len -= 17 + symbols;
    }
    return GATE_OK;
}

/* DQT: B.2.4.1. */
static enum gate_verdict read_quantizers(struct jpeg *j, const uint8_t *p, size_t len)
{
    while (len > 0) {
        size_t table_bytes = p[0] >> 4 ? 129 : 65;
        if (p[0] >> 4 > 1 || (p[0] & 15) > 3 || len < table_bytes) {
            return corrupt_at(j, (size_t)(p - j->bytes), "a malformed quantization table");
        }
        j->quantizers |= 1u << (p[0] & 15);
        p += table_bytes;
        len -= table_bytes;
    }
    return GATE_OK;
}

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* Block counts, the memory the decoder will ask for, and what is paid once. */
static void measure_frame(struct jpeg *j, uint32_t h_most, uint32_t v_most)
{
    uint32_t w = j->info->width, h = j->info->height;
    uint32_t mcus_x = ceil_div(w, 8 * h_most), mcus_y = ceil_div(h, 8 * v_most);
    uint64_t memory = DECODER_BYTES + 3 * (uint64_t)w * h;
    j->mcus = mcus_x * mcus_y;
    for (unsigned i = 0; i < j->components; i++) {
        struct component *c = &j->component[i];
        c->blocks =
            ceil_div(ceil_div(w * c->h, h_most), 8) * ceil_div(ceil_div(h * c->v, v_most), 8);
        c->padded_blocks = j->mcus * c->h * c->v;
        /* Samples; progressive: 16-bit coefficients as well; a line for upsampling. */
        memory += (uint64_t)c->padded_blocks * 64 * (j->progressive ? 3 : 1) + w;
        if (j->progressive) {
            j->info->cost_ns += (uint64_t)c->blocks * COST_TRANSFORM;
        }
    }
    j->info->decode_bytes = (size_t)memory;
    j->info->cost_ns += (uint64_t)w * h * COST_PIXEL;
}

static enum gate_verdict read_components(struct jpeg *j, const uint8_t *p)
{
    uint32_t h_most = 1, v_most = 1;
    for (unsigned i = 0; i < j->components; i++, p += 3) {
        struct component *c = &j->component[i];
        *c = (struct component){.id = p[0], .h = p[1] >> 4, .v = p[1] & 15, .quantizer = p[2]};
        if (c->h < 1 || c->h > 4 || c->v < 1 || c->v > 4 || c->quantizer > 3) {
            return corrupt_at(j, (size_t)(p - j->bytes), "a component with impossible sampling");
        }
        for (unsigned k = 0; k < i; k++) {
            if (j->component[k].id == c->id) {
                return corrupt_at(j, (size_t)(p - j->bytes), "two components of one number");
            }
        }
        h_most = c->h > h_most ? c->h : h_most;
        v_most = c->v > v_most ? c->v : v_most;
    }
    for (unsigned i = 0; i < j->components; i++) {
        if (h_most % j->component[i].h != 0 || v_most % j->component[i].v != 0) {
            return gate_refuse(j->why, GATE_VARIANT,
                               "the JPEG's sampling factors %ux%u and %ux%u are not in a whole "
                               "ratio",
                               h_most, v_most, j->component[i].h, j->component[i].v);
        }
    }
    measure_frame(j, h_most, v_most);
    return GATE_OK;
}

/* SOF0, SOF1, SOF2: B.2.2. */
static enum gate_verdict read_frame(struct jpeg *j, unsigned marker, const uint8_t *p, size_t len)
{
    size_t at = (size_t)(p - j->bytes);
    if (j->has_frame) {
        return corrupt_at(j, at, "a second frame header");
    }
    if (len < 6 || len != 6 + 3 * (size_t)p[5]) {
        return corrupt_at(j, at, "a frame header of the wrong length");
    }
    j->info->height = gate_be16(p + 1);
    j->info->width = gate_be16(p + 3);
    j->components = p[5];
    j->info->channels = p[5];
    if (p[0] != 8) {
        return gate_refuse(j->why, GATE_VARIANT,
                           "the JPEG has %u bits a sample; only 8 are accepted", p[0]);
    }
    if (j->components != 1 && j->components != 3 && j->components != 4) {
        return gate_refuse(j->why, GATE_VARIANT,
                           "the JPEG has %u components; 1, 3 and 4 are accepted", j->components);
    }
    enum gate_verdict verdict = gate_size(j->limits, j->info, j->why);
    if (verdict != GATE_OK) {
        return verdict;
    }
    j->has_frame = true;
    j->progressive = marker == 0xC2;
    return read_components(j, p + 6);
}

static enum gate_verdict read_scan_components(struct jpeg *j, const uint8_t *p, struct scan *scan)
{
    unsigned samples = 0;
    for (unsigned i = 0; i < scan->components; i++, p += 2) {
        struct component *c = NULL;
        for (unsigned k = 0; k < j->components; k++) {
            c = j->component[k].id == p[0] ? &j->component[k] : c;
        }
        for (unsigned k = 0; k < i; k++) {
            c = scan->component[k] == c ? NULL : c;
        }
        if (c == NULL) {
            return corrupt_at(j, (size_t)(p - j->bytes), "a scan of an unknown component");
        }
        scan->component[i] = c;
        samples += (unsigned)c->h * c->v;
        unsigned dc = p[1] >> 4, ac = p[1] & 15;
        bool needs_dc = !j->progressive || (scan->from == 0 && scan->high == 0);
        bool needs_ac = !j->progressive || scan->from > 0;
        if (dc > 3 || ac > 3 || (needs_dc && !(j->dc_tables >> dc & 1)) ||
            (needs_ac && !(j->ac_tables >> ac & 1)) || !(j->quantizers >> c->quantizer & 1)) {
            return corrupt_at(j, (size_t)(p - j->bytes), "a scan whose tables are not defined");
        }
        c->seen |= scan->from == 0;
    }
    if (scan->components > 1 && samples > 10) {
        return corrupt_at(j, (size_t)(p - j->bytes), "a scan of more than 10 blocks an MCU");
    }
    return GATE_OK;
}

/* Entropy-coded bytes up to the next marker: stuffed zeros and restart markers are part of it. */
static size_t entropy_end(const struct jpeg *j, size_t at, unsigned *restarts, bool *in_order)
{
    *restarts = 0;
    *in_order = true;
    while (at < j->len) {
        const uint8_t *ff = memchr(j->bytes + at, 0xFF, j->len - at);
        if (ff == NULL) {
            return j->len;
        }
        size_t marker = (size_t)(ff - j->bytes);
        at = marker + 1;
        while (at < j->len && j->bytes[at] == 0xFF) {
            at++;
        }
        if (at == j->len) {
            return j->len;
        }
        unsigned code = j->bytes[at++];
        if (code >= 0xD0 && code <= 0xD7) {
            *in_order &= (code & 7) == (*restarts & 7);
            ++*restarts;
        } else if (code != 0) {
            return marker;
        }
    }
    return j->len;
}

/* Adds up a scan's work and skips its data, which must hold at least what its blocks take. */
static enum gate_verdict read_scan_data(struct jpeg *j, const struct scan *scan)
{
    uint64_t blocks = 0;
    uint32_t mcus = scan->components == 1 ? scan->component[0]->blocks : j->mcus;
    for (unsigned i = 0; i < scan->components; i++) {
        const struct component *c = scan->component[i];
        blocks += scan->components == 1 ? c->blocks : c->padded_blocks;
    }
    unsigned band = scan->to - scan->from + 1;
    j->info->cost_ns += blocks * (j->progressive ? COST_SCAN_BLOCK + band * COST_SCAN_COEFFICIENT
                                                 : COST_BASELINE_BLOCK);

    size_t begin = j->at;
    unsigned restarts;
    bool in_order;
    j->at = entropy_end(j, begin, &restarts, &in_order);
    j->info->cost_ns += (j->at - begin) * COST_BYTE;
    unsigned due = j->restart_interval ? (mcus - 1) / j->restart_interval : 0;
    bool one_at_the_end =
        j->restart_interval && restarts == due + 1 && mcus % j->restart_interval == 0;
    if (!in_order || (restarts != due && !one_at_the_end)) {
        return gate_refuse(j->why, GATE_CORRUPT,
                           "the JPEG's scan at byte %zu has %u restart markers%s; it needs %u",
                           begin, restarts, in_order ? "" : " out of order", due);
    }
    /* Every baseline block has a DC and an AC code, every DC block of a progressive file a bit. */
    uint64_t bits = j->progressive ? (scan->from == 0 ? blocks : 0) : 2 * blocks;
    if ((uint64_t)(j->at - begin) * 8 < bits) {
        return gate_refuse(j->why, GATE_CORRUPT,
                           "the JPEG's scan at byte %zu has %zu bytes; its %llu blocks need more",
                           begin, j->at - begin, (unsigned long long)blocks);
    }
    return GATE_OK;
}

/* SOS: B.2.3; the ranges of progressive scans: G.1.1.1. */
static enum gate_verdict read_scan(struct jpeg *j, const uint8_t *p, size_t len)
{
    size_t at = (size_t)(p - j->bytes);
    if (!j->has_frame || len < 6 || p[0] < 1 || p[0] > j->components ||
        len != 4 + 2 * (size_t)p[0]) {
        return corrupt_at(j, at, "a scan header that does not fit its frame");
    }
    if (++j->scans > GATE_MAX_SCANS) {
        return gate_refuse(j->why, GATE_TOO_COMPLEX, "the JPEG has more than %u scans",
                           GATE_MAX_SCANS);
    }
    const uint8_t *tail = p + 1 + 2 * (size_t)p[0];
    struct scan scan = {.components = p[0],
                        .from = tail[0],
                        .to = tail[1],
                        .high = tail[2] >> 4,
                        .low = tail[2] & 15};
    if (j->progressive) {
        bool dc = scan.from == 0;
        if (scan.to > 63 || scan.from > scan.to || (dc && scan.to != 0) ||
            (!dc && scan.components != 1) || scan.high > 13 || scan.low > 13 ||
            (scan.high != 0 && scan.low != scan.high - 1)) {
            return corrupt_at(j, at, "a scan of an impossible range of coefficients");
        }
    } else if (scan.from != 0 || scan.high != 0 || scan.low != 0) {
        return corrupt_at(j, at, "a progressive scan in a sequential frame");
    }
    enum gate_verdict verdict = read_scan_components(j, p + 1, &scan);
    if (verdict != GATE_OK) {
        return verdict;
    }
    return read_scan_data(j, &scan);
}

/* A segment with a length; p and len are what follows the length. */
static enum gate_verdict read_segment(struct jpeg *j, unsigned marker, const uint8_t *p, size_t len)
{
    size_t at = (size_t)(p - j->bytes);
    if ((marker >= 0xE0 && marker <= 0xEF) || marker == 0xFE) {
        return GATE_OK; /* applications' data and comments */
    }
    switch (marker) {
    case 0xC0:
    case 0xC1:
    case 0xC2:
        return read_frame(j, marker, p, len);
    case 0xC4:
        return read_huffman(j, p, len);
    case 0xDB:
        return read_quantizers(j, p, len);
    case 0xDA:
        return read_scan(j, p, len);
    case 0xDD:
        if (len != 2) {
            return corrupt_at(j, at, "a restart interval of the wrong length");
        }
        j->restart_interval = gate_be16(p);
        return GATE_OK;
    case 0xDC: /* DNL may repeat the height; giving it late is what the decoder cannot do */
        if (len != 2 || gate_be16(p) != j->info->height) {
            return gate_refuse(j->why, GATE_VARIANT, "the JPEG gives its height after its data");
        }
        return GATE_OK;
    default:
        break;
    }
    if (marker >= 0xC3 && marker <= 0xCF) {
        return gate_refuse(j->why, GATE_VARIANT,
                           "the JPEG is lossless, hierarchical or arithmetic-coded (marker FF%02X)",
                           marker);
    }
    return corrupt_at(j, at, "an unknown marker");
}

/* The next marker. Between the segments before the frame, some writers leave padding. */
static enum gate_verdict next_marker(struct jpeg *j, bool padding, unsigned *marker)
{
    while (padding && j->at < j->len && j->bytes[j->at] != 0xFF) {
        j->at++;
    }
    if (j->at < j->len && j->bytes[j->at] != 0xFF) {
        return corrupt_at(j, j->at, "data where a marker must be");
    }
    while (j->at < j->len && j->bytes[j->at] == 0xFF) {
        j->at++;
    }
    if (j->at == j->len) {
        return cut_short(j);
    }
    *marker = j->bytes[j->at++];
    return GATE_OK;
}

static enum gate_verdict finish(const struct jpeg *j)
{
    for (unsigned i = 0; i < j->components; i++) {
        if (!j->component[i].seen) {
            return gate_refuse(j->why, GATE_CORRUPT,
                               "the JPEG ends without data of its component %u", i + 1);
        }
    }
    if (j->components == 0) {
        return gate_refuse(j->why, GATE_CORRUPT, "the JPEG ends without a frame");
    }
    return gate_cost(j->limits, j->info, j->why);
}

enum gate_verdict gate_jpeg(const uint8_t *bytes, size_t len, const struct gate_limits *limits,
                            struct gate_info *info, struct gate_reason *why)
{
    struct jpeg j = {
        .bytes = bytes, .len = len, .at = 2, .limits = limits, .info = info, .why = why};
    for (bool first = true;; first = false) {
        unsigned marker = 0;
        enum gate_verdict verdict = next_marker(&j, !first && !j.has_frame, &marker);
        if (verdict != GATE_OK) {
            return verdict;
        }
        if (marker == 0xD9) {
            return finish(&j);
        }
        size_t left = len - j.at;
        if (marker < 0xC0 || (marker >= 0xD0 && marker <= 0xD8)) {
            return corrupt_at(&j, j.at - 2, "an unknown marker");
        }
        if (left < 2) {
            return cut_short(&j);
        }
        size_t segment = gate_be16(bytes + j.at);
        if (segment < 2 || segment > left) {
            return gate_refuse(why, GATE_CORRUPT,
                               "the JPEG's segment FF%02X at byte %zu claims %zu of the %zu bytes "
                               "that follow",
                               marker, j.at - 2, segment, left);
        }
        const uint8_t *p = bytes + j.at + 2;
        j.at += segment;
        verdict = read_segment(&j, marker, p, segment - 2);
        if (verdict != GATE_OK) {
            return verdict;
        }
    }
}
