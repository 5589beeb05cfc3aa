/*
 * A session runs one model: it owns the memory that a run needs, so that running allocates nothing.
 *
 * Thread-safety: a session may be used by one thread at a time. Any number of sessions of one model
 * may run at once.
 */
#ifndef CONVD_SESSION_H
#define CONVD_SESSION_H

#include <convd/model.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cvd_session;

/* Prepares to run batches of 1 … max_batch images (a model with a fixed batch: exactly that many).
 * INVALID_ARGUMENT when max_batch is not positive or not what the model allows, OUT_OF_MEMORY when
 * its buffers do not fit. */
enum cvd_status cvd_session_create(const struct cvd_model *model, int64_t max_batch,
                                   struct cvd_session **out, struct cvd_error *err);

/* NULL is allowed. */
void cvd_session_destroy(struct cvd_session *session);

/*
 * Runs one batch. inputs[i] points to the elements of the model's input i, outputs[i] to room for
 * output i (NULL: not wanted), with the shapes of cvd_model_input_shape() and
 * cvd_model_output_shape() for this batch. Any alignment that suits the element type will do.
 *
 * The answer for an image depends on that image alone: it is bit-identical whatever the batch size,
 * its place in the batch and the number of threads. Workers of the engine that are idle help; the
 * calling thread works too and returns when all is done.
 *
 * Fails with INVALID_ARGUMENT for a batch size the session was not made for; cannot fail because
 * of the data.
 */
enum cvd_status cvd_session_run(struct cvd_session *session, int64_t batch,
                                const void *const *inputs, void *const *outputs,
                                struct cvd_error *err);

/*
 * Has every run from now on say how long each layer took: layer_ns[0 … cvd_model_layer_count() - 1]
 * in nanoseconds, overwritten by each run. NULL, the state at first, ends it and costs nothing.
 *
 * A layer that workers share counts from its begin to its end. Where workers run images of their
 * own side by side, its time is the sum over the whole batch divided by the number of these
 * workers: in both cases the layers add up to nearly the time of the run, less what workers wait.
 */
void cvd_session_time_layers(struct cvd_session *session, uint64_t *layer_ns);

#ifdef __cplusplus
}
#endif
#endif
