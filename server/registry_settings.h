/* What a model folder says beside the ONNX file: config.json and labels; for registry_*.c. */
#ifndef CONVD_SERVER_REGISTRY_SETTINGS_H
#define CONVD_SERVER_REGISTRY_SETTINGS_H

#include <convd/status.h>

#include <stddef.h>
#include <stdint.h>

enum settings_softmax { SOFTMAX_AUTO, SOFTMAX_ALWAYS, SOFTMAX_NEVER };
enum settings_versions { VERSIONS_LATEST, VERSIONS_ALL, VERSIONS_LISTED };

#define SETTINGS_MAX_BATCH    1024u
#define SETTINGS_MAX_DELAY_US 1000000u

/* DESIGN.md section 5. Absent keys: NULL, AUTO, LATEST, 0 for max_batch, REGISTRY_NO_DELAY. */
struct settings {
    char *path;   /* of config.json, for messages; NULL when there is none */
    char *labels; /* a file name in the same folder */
    char *input;  /* JSON text for preprocess_parse() */
    enum settings_softmax softmax;
    unsigned max_batch;
    uint64_t max_delay_ns;
    enum settings_versions versions;
    uint64_t *listed;
    size_t listed_count;
};

/* Reads folder/config.json; all defaults when it does not exist or folder is NULL. */
enum cvd_status settings_read(const char *folder, struct settings *out, struct cvd_error *err);

/* The same from text; `path` names it in messages and is copied. */
enum cvd_status settings_parse(const char *json, size_t len, const char *path, struct settings *out,
                               struct cvd_error *err);
void settings_free(struct settings *s);

/* One label a line; a final empty line does not count. */
enum cvd_status labels_parse_lines(const char *text, size_t len, const char *where, char ***labels,
                                   size_t *count, struct cvd_error *err);

/* A JSON array of strings. */
enum cvd_status labels_parse_json(const char *json, size_t len, const char *where, char ***labels,
                                  size_t *count, struct cvd_error *err);
void labels_free(char **labels, size_t count);

#endif
