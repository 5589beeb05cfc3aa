/*
 * config.json and label files of a model folder. Strict: a key or value that is not understood is
 * an error that names the file and the key, because a setting that is silently ignored (a mean
 * spelled wrong) shows only as bad answers.
 */
#include "server/registry_settings.h"

#include "server/file.h"
#include "server/registry.h"
#include "server/strict_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_MAX_BYTES 1048576u

/* ---- labels ---- */

void labels_free(char **labels, size_t count)
{
    if (!labels)
        return;
    for (size_t i = 0; i < count; i++)
        free(labels[i]);
    free(labels);
}

static enum cvd_status no_memory(const char *where, struct cvd_error *err)
{
    return cvd_error_set(err, CVD_STATUS_OUT_OF_MEMORY, "%s: no memory", where);
}

enum cvd_status labels_parse_lines(const char *text, size_t len, const char *where, char ***labels,
                                   size_t *count, struct cvd_error *err)
{
    const char *end = text + len;
    if (len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) /* byte order mark */
        text += 3;
    if (memchr(text, '\0', (size_t)(end - text)))
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "%s: holds a NUL byte; it should be text", where);
    size_t lines = 0;
    for (const char *c = text; c < end; c++)
        lines += *c == '\n' || c + 1 == end;
    if (lines == 0)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: holds no label", where);
    char **list = calloc(lines, sizeof *list);
    if (!list)
        return no_memory(where, err);
    for (size_t i = 0; i < lines; i++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        const char *next = stop ? stop + 1 : end;
        if (!stop)
            stop = end;
        if (stop > text && stop[-1] == '\r')
            stop--;
        list[i] = strndup(text, (size_t)(stop - text));
        if (!list[i]) {
            labels_free(list, lines);
            return no_memory(where, err);
        }
        text = next;
    }
    *labels = list;
    *count = lines;
    return CVD_STATUS_OK;
}

enum cvd_status labels_parse_json(const char *json, size_t len, const char *where, char ***labels,
                                  size_t *count, struct cvd_error *err)
{
    struct strict_json doc;
    const json_t *array = strict_json_read(&doc, json, len) ? doc.root : NULL, *item;
    enum cvd_status status = CVD_STATUS_OK;
    if (doc.no_memory)
        status = no_memory(where, err);
    else if (!json_is_array(array) || json_array_size(array) == 0)
        status = cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                               "%s: not a JSON array of labels, or an empty one", where);
    if (status != CVD_STATUS_OK) {
        strict_json_free(&doc);
        return status;
    }
    size_t size = json_array_size(array), i;
    char **list = calloc(size, sizeof *list);
    if (!list)
        status = no_memory(where, err);
    else
        json_array_foreach(array, i, item)
        {
            if (!json_is_string(item))
                status = cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                                       "%s: label %zu is not a string", where, i);
            else if (!(list[i] = strdup(json_string_value(item))))
                status = no_memory(where, err);
            if (status != CVD_STATUS_OK)
                break;
        }
    strict_json_free(&doc);
    if (status != CVD_STATUS_OK) {
        labels_free(list, size);
        return status;
    }
    *labels = list;
    *count = size;
    return CVD_STATUS_OK;
}

/* ---- config.json ---- */

/* Fails when the object has a key that is not in `keys`, which is one string, "a, b, c". */
static enum cvd_status check_keys(const struct settings *s, const json_t *object,
                                  const char *section, const char *keys, struct cvd_error *err)
{
    if (!json_is_object(object))
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: %s should be an object", s->path,
                             *section ? section : "the document");
    for (void *i = json_object_iter((json_t *)(uintptr_t)object); i;
         i = json_object_iter_next((json_t *)(uintptr_t)object, i)) {
        const char *key = json_object_iter_key(i);
        size_t len = strlen(key);
        const char *at = keys;
        while (at && !(strncmp(at, key, len) == 0 && (at[len] == ',' || at[len] == '\0'))) {
            at = strstr(at, ", ");
            at = at ? at + 2 : NULL;
        }
        if (!at)
            return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                                 "%s: unknown key \"%s%s%s\"; known are: %s", s->path, section,
                                 *section ? "." : "", key, keys);
    }
    return CVD_STATUS_OK;
}

static enum cvd_status read_labels(struct settings *s, const json_t *value, struct cvd_error *err)
{
    const char *name = json_string_value(value);
    if (!name || !*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "%s: \"labels\" should be the name of a file in the same folder",
                             s->path);
    s->labels = strdup(name);
    return s->labels ? CVD_STATUS_OK : no_memory(s->path, err);
}

static enum cvd_status read_output(struct settings *s, const json_t *value, struct cvd_error *err)
{
    enum cvd_status status = check_keys(s, value, "output", "softmax", err);
    const json_t *softmax = json_object_get(value, "softmax");
    if (status != CVD_STATUS_OK || !softmax)
        return status;
    static const char *const names[] = {
        [SOFTMAX_AUTO] = "auto", [SOFTMAX_ALWAYS] = "always", [SOFTMAX_NEVER] = "never"};
    for (int i = SOFTMAX_AUTO; i <= SOFTMAX_NEVER && json_is_string(softmax); i++) {
        if (strcmp(json_string_value(softmax), names[i]) == 0) {
            s->softmax = (enum settings_softmax)i;
            return CVD_STATUS_OK;
        }
    }
    return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                         "%s: \"output.softmax\" should be \"auto\", \"always\" or \"never\"",
                         s->path);
}

/* A whole number from min to max, or an error that names section and key. */
static enum cvd_status read_number(const struct settings *s, const json_t *object,
                                   const char *section, const char *key, uint64_t min, uint64_t max,
                                   uint64_t *out, struct cvd_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (!value)
        return CVD_STATUS_OK;
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || (uint64_t)n < min || (uint64_t)n > max)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "%s: \"%s.%s\" should be a whole number from %llu to %llu", s->path,
                             section, key, (unsigned long long)min, (unsigned long long)max);
    *out = (uint64_t)n;
    return CVD_STATUS_OK;
}

static enum cvd_status read_batching(struct settings *s, const json_t *value, struct cvd_error *err)
{
    uint64_t batch = 0, delay_us = REGISTRY_NO_DELAY;
    enum cvd_status status = check_keys(s, value, "batching", "max_batch_size, max_delay_us", err);
    if (status == CVD_STATUS_OK)
        status =
            read_number(s, value, "batching", "max_batch_size", 1, SETTINGS_MAX_BATCH, &batch, err);
    if (status == CVD_STATUS_OK)
        status = read_number(s, value, "batching", "max_delay_us", 0, SETTINGS_MAX_DELAY_US,
                             &delay_us, err);
    if (status != CVD_STATUS_OK)
        return status;
    s->max_batch = (unsigned)batch;
    s->max_delay_ns = delay_us == REGISTRY_NO_DELAY ? REGISTRY_NO_DELAY : delay_us * 1000;
    return CVD_STATUS_OK;
}

static enum cvd_status read_versions(struct settings *s, const json_t *value, struct cvd_error *err)
{
    const char *word = json_string_value(value);
    if (word && strcmp(word, "latest") == 0) {
        s->versions = VERSIONS_LATEST;
        return CVD_STATUS_OK;
    }
    if (word && strcmp(word, "all") == 0) {
        s->versions = VERSIONS_ALL;
        return CVD_STATUS_OK;
    }
    size_t count = json_array_size(value), i; /* 0 for what is not an array */
    bool good = count > 0;
    for (i = 0; i < count && good; i++)
        good = json_integer_value(json_array_get(value, i)) > 0;
    if (!good)
        return cvd_error_set(err, CVD_STATUS_INVALID_DATA,
                             "%s: \"versions\" should be \"latest\", \"all\" or a list of version "
                             "numbers such as [1, 3]",
                             s->path);
    s->listed = calloc(count, sizeof *s->listed);
    if (!s->listed)
        return no_memory(s->path, err);
    for (i = 0; i < count; i++)
        s->listed[i] = (uint64_t)json_integer_value(json_array_get(value, i));
    s->listed_count = count;
    s->versions = VERSIONS_LISTED;
    return CVD_STATUS_OK;
}

static enum cvd_status read_document(struct settings *s, const json_t *root, struct cvd_error *err)
{
    const json_t *value;
    enum cvd_status status =
        check_keys(s, root, "", "labels, input, output, batching, versions", err);
    if (status == CVD_STATUS_OK && (value = json_object_get(root, "labels")))
        status = read_labels(s, value, err);
    if (status == CVD_STATUS_OK && (value = json_object_get(root, "input"))) {
        s->input = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
        if (!s->input)
            status = no_memory(s->path, err);
    }
    if (status == CVD_STATUS_OK && (value = json_object_get(root, "output")))
        status = read_output(s, value, err);
    if (status == CVD_STATUS_OK && (value = json_object_get(root, "batching")))
        status = read_batching(s, value, err);
    if (status == CVD_STATUS_OK && (value = json_object_get(root, "versions")))
        status = read_versions(s, value, err);
    return status;
}

enum cvd_status settings_parse(const char *json, size_t len, const char *path, struct settings *out,
                               struct cvd_error *err)
{
    struct settings s = {.path = strdup(path), .max_delay_ns = REGISTRY_NO_DELAY};
    struct strict_json doc;
    enum cvd_status status;
    if (!s.path)
        return no_memory(path, err);
    if (strict_json_read(&doc, json, len))
        status = read_document(&s, doc.root, err);
    else if (doc.no_memory)
        status = no_memory(path, err);
    else
        status = cvd_error_set(err, CVD_STATUS_INVALID_DATA, "%s: line %d: %s", path,
                               doc.fault.line, doc.fault.text);
    strict_json_free(&doc);
    if (status == CVD_STATUS_OK)
        *out = s;
    else
        settings_free(&s);
    return status;
}

enum cvd_status settings_read(const char *folder, struct settings *out, struct cvd_error *err)
{
    char *path = NULL, *json = NULL;
    size_t len;
    enum cvd_status status = CVD_STATUS_OK;
    if (folder && asprintf(&path, "%s/config.json", folder) < 0)
        return no_memory(folder, err);
    if (!path || !file_exists(path)) {
        *out = (struct settings){.max_delay_ns = REGISTRY_NO_DELAY};
    } else {
        status = file_read(path, false, CONFIG_MAX_BYTES, &json, &len, err);
        if (status == CVD_STATUS_OK)
            status = settings_parse(json, len, path, out, err);
    }
    free(json);
    free(path);
    return status;
}

void settings_free(struct settings *s)
{
    free(s->path);
    free(s->labels);
    free(s->input);
    free(s->listed);
    *s = (struct settings){.max_delay_ns = REGISTRY_NO_DELAY};
}
