/* A model described in JSON: what goes in, what comes out, and every layer on the way. */
#include "server/registry_json.h"

#include <inttypes.h>

static void shape(struct text *t, const struct cvd_shape *s)
{
    text_puts(t, "[");
    for (unsigned i = 0; i < s->rank; i++)
        text_printf(t, "%s%" PRId64, i ? "," : "", s->dims[i]); /* -1: any number of images */
    text_puts(t, "]");
}

/* Members of an input's or output's object. */
static void value(struct text *t, const struct cvd_value_info *v)
{
    text_puts(t, "\"name\":");
    text_json_string(t, v->name);
    text_printf(t, ",\"type\":\"%s\",\"shape\":", cvd_dtype_name(v->dtype));
    shape(t, &v->shape);
}

static void numbers(struct text *t, const float *values, unsigned count)
{
    text_puts(t, "[");
    for (unsigned i = 0; i < count; i++) {
        text_puts(t, i ? "," : "");
        text_json_number(t, (double)values[i]);
    }
    text_puts(t, "]");
}

static void preprocessing(struct text *t, const struct preprocess *p)
{
    static const char *const colors[] = {
        [IMAGE_RGB] = "rgb", [IMAGE_BGR] = "bgr", [IMAGE_GRAY] = "gray"};
    static const char *const resizes[] = {[IMAGE_SHORTEST_SIDE] = "shortest_side",
                                          [IMAGE_STRETCH] = "stretch",
                                          [IMAGE_NO_RESIZE] = "none"};
    static const char *const inverts[] = {
        [IMAGE_INVERT_NEVER] = "never", [IMAGE_INVERT_AUTO] = "auto"};
    text_printf(t, ",\"preprocessing\":{\"color\":\"%s\",\"resize\":\"%s\",\"resize_to\":%u",
                colors[p->color], resizes[p->resize], p->resize_to);
    text_puts(t, ",\"scale\":");
    text_json_number(t, (double)p->scale);
    text_puts(t, ",\"mean\":");
    numbers(t, p->mean, p->channels);
    text_puts(t, ",\"std\":");
    numbers(t, p->stddev, p->channels);
    text_printf(t, ",\"invert\":\"%s\"}", inverts[p->invert]);
}

void registry_layer_json(struct text *t, const struct cvd_layer_info *layer)
{
    text_puts(t, "\"name\":");
    text_json_string(t, layer->name);
    text_puts(t, ",\"op\":");
    text_json_string(t, layer->op);
    text_puts(t, ",\"kernel\":");
    text_json_string(t, layer->kernel);
    text_puts(t, ",\"shape\":");
    shape(t, &layer->shape);
    text_printf(t, ",\"parameters\":%" PRIu64 ",\"macs\":%" PRIu64 ",\"output_bytes\":%" PRIu64,
                layer->parameters, layer->macs, layer->output_bytes);
    if (layer->dense_parameters)
        text_printf(t, ",\"dense_parameters\":%" PRIu64, layer->dense_parameters);
}

static void layers(struct text *t, const struct cvd_model *model)
{
    text_puts(t, ",\"layers\":[");
    for (size_t i = 0; i < cvd_model_layer_count(model); i++) {
        struct cvd_layer_info layer;
        cvd_model_layer(model, i, &layer);
        text_puts(t, i ? ",{" : "{");
        registry_layer_json(t, &layer);
        text_puts(t, "}");
    }
    text_puts(t, "]");
}

/* A classifier: one input, one output of interest. */
static void images(struct text *t, const struct registry_model *m)
{
    const struct preprocess *p = &m->preprocess;
    const char *softmax = m->apply_softmax                      ? "applied"
                          : cvd_model_ends_in_softmax(m->model) ? "in_model"
                                                                : "none";
    struct cvd_value_info v;
    char buf[24];
    cvd_model_input(m->model, 0, &v);
    text_puts(t, ",\"input\":{");
    value(t, &v);
    text_printf(t, ",\"channels\":%u,\"height\":%u,\"width\":%u},\"output\":{", p->channels,
                p->height, p->width);
    cvd_model_output(m->model, 0, &v);
    value(t, &v);
    text_printf(t, ",\"classes\":%zu,\"softmax\":\"%s\"},\"labels\":[", m->classes, softmax);
    for (size_t i = 0; i < m->classes; i++) {
        text_puts(t, i ? "," : "");
        text_json_string(t, registry_label(m, i, buf));
    }
    text_puts(t, "]");
    preprocessing(t, p);
}

/* Anything else. */
static void values(struct text *t, const struct cvd_model *model)
{
    struct cvd_value_info v;
    text_puts(t, ",\"inputs\":[");
    for (size_t i = 0; i < cvd_model_input_count(model); i++) {
        cvd_model_input(model, i, &v);
        text_puts(t, i ? ",{" : "{");
        value(t, &v);
        text_puts(t, "}");
    }
    text_puts(t, "],\"outputs\":[");
    for (size_t i = 0; i < cvd_model_output_count(model); i++) {
        cvd_model_output(model, i, &v);
        text_puts(t, i ? ",{" : "{");
        value(t, &v);
        text_puts(t, "}");
    }
    text_puts(t, "]");
}

void registry_json(struct text *t, const struct registry_model *m)
{
    struct cvd_model_stats stats;
    text_puts(t, "\"name\":");
    text_json_string(t, m->name);
    text_puts(t, ",\"version\":");
    text_json_string(t, m->version);
    if (m->not_images)
        values(t, m->model);
    else
        images(t, m);
    layers(t, m->model);
    cvd_model_stats(m->model, &stats);
    text_printf(t,
                ",\"totals\":{\"parameters\":%" PRIu64 ",\"macs\":%" PRIu64
                ",\"weight_bytes\":%" PRIu64 ",\"activation_bytes\":%" PRIu64
                ",\"unshared_activation_bytes\":%" PRIu64 "},\"opset\":%" PRId64,
                stats.parameters, stats.macs, stats.weight_bytes, stats.activation_bytes,
                stats.unshared_bytes, stats.opset);
}
