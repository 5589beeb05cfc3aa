/* What the format walkers of the image gate share; private to gate*.c. */
#ifndef CONVD_SERVER_GATE_IMAGE_H
#define CONVD_SERVER_GATE_IMAGE_H

#include "server/gate.h"

/* Writes the reason and returns the verdict, so that a walker can return it. */
enum gate_verdict gate_refuse(struct gate_reason *why, enum gate_verdict verdict,
                              const char *format, ...) __attribute__((format(printf, 3, 4)));

/* info->width and height against zero, GATE_MAX_SIDE and max_pixels. */
enum gate_verdict gate_size(const struct gate_limits *limits, const struct gate_info *info,
                            struct gate_reason *why);

/* info->cost_ns against the limit. */
enum gate_verdict gate_cost(const struct gate_limits *limits, const struct gate_info *info,
                            struct gate_reason *why);

/* One walker a format; the bytes begin with its signature. */
enum gate_verdict gate_jpeg(const uint8_t *bytes, size_t len, const struct gate_limits *limits,
                            struct gate_info *info, struct gate_reason *why);
enum gate_verdict gate_png(const uint8_t *bytes, size_t len, const struct gate_limits *limits,
                           struct gate_info *info, struct gate_reason *why);
enum gate_verdict gate_bmp(const uint8_t *bytes, size_t len, const struct gate_limits *limits,
                           struct gate_info *info, struct gate_reason *why);

static inline unsigned gate_be16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static inline uint32_t gate_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline unsigned gate_le16(const uint8_t *p)
{
    return (unsigned)p[1] << 8 | p[0];
}

static inline uint32_t gate_le32(const uint8_t *p)
{
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

#endif
