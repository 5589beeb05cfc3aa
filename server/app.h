/* What the parts of a running convd share, created by cmd_serve.c and handed to every request. */
#ifndef CONVD_SERVER_APP_H
#define CONVD_SERVER_APP_H

#include <stdatomic.h>

struct config;
struct cvd_engine;
struct log;
struct metrics;
struct registry;

enum app_phase {
    APP_LOADING, /* listening; models are being loaded: /readyz is 503 */
    APP_READY,
    APP_DRAINING, /* told to stop: /readyz is 503, replies carry Connection: close */
    APP_STOPPING  /* drain delay is over: new work is answered 503 */
};

struct app {
    const struct config *config;
    struct cvd_engine *engine;
    struct log *log;
    struct metrics *metrics;
    struct registry *registry;
    _Atomic enum app_phase phase;
};

#endif
