/*
 * Options: one typed table (in config.c) gives the flags, the CONVD_* environment variables, the
 * keys of the configuration file, their ranges, defaults and help text.
 *
 * Precedence: flags over environment over file over defaults. The file is JSON: one object whose
 * keys are the option names with '_' for '-'; unknown keys are errors.
 */
#ifndef CONVD_SERVER_CONFIG_H
#define CONVD_SERVER_CONFIG_H

#include <convd/engine.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum config_log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum config_log_format { LOG_TEXT, LOG_JSON };

struct config {
    char *listen; /* "ADDR:PORT", "[V6]:PORT", ":PORT" = every address; port 0 = any free one */
    char *admin_listen;  /* the same for probes and metrics alone, or NULL */
    char *models;        /* model folder or NULL */
    char *default_model; /* or NULL */
    unsigned threads;    /* 0 = as many as the cgroup allows */
    unsigned io_threads;
    enum cvd_cpu cpu;
    uint64_t tune_budget_ns; /* of a model; 0 = algorithms are not chosen by timing */
    char *tune_cache;        /* folder for such choices or NULL */
    unsigned max_batch;      /* images */
    uint64_t max_delay_ns;
    unsigned max_queue;     /* images waiting, over each model */
    size_t max_queue_bytes; /* tensors waiting, over all models; also request bodies held */
    size_t max_body;        /* bytes of a request body, also after inflation */
    uint64_t max_pixels;    /* width * height of an image */
    uint64_t
        request_timeout_ns;   /* decode, queue and compute; also the cap for X-Request-Timeout-Ms */
    uint64_t idle_timeout_ns; /* keep-alive connections */
    unsigned max_connections;
    unsigned max_connections_per_ip; /* 0 = no limit */
    uint64_t drain_delay_ns;
    uint64_t drain_timeout_ns;
    enum config_log_level log_level;
    enum config_log_format log_format;
    bool access_log;
};

/*
 * Fills *config from argv (the words after the subcommand), the environment and the file that
 * --config or CONVD_CONFIG names. Returns 0; or 2 after printing every error to `errors`, one line
 * each, naming the option, the value and what it should be. --help is for the caller to look for
 * first. The strings are freed by config_free().
 */
int config_load(struct config *config, int argc, char **argv, FILE *errors);
void config_free(struct config *config);

/* Splits a `listen` value; false when it is not one. An empty host stands for every address. */
#define CONFIG_HOST_BYTES 256
#define CONFIG_PORT_BYTES 6
bool config_address(const char *text, char host[CONFIG_HOST_BYTES], char port[CONFIG_PORT_BYTES]);

/* Reads a time such as 500ms or 2s, up to max_ns; false when it is none. */
bool config_time(const char *text, uint64_t max_ns, uint64_t *ns);

/* Default of --tune-budget, for the tools as well. */
#define CONFIG_TUNE_BUDGET "2s"

/* The option list for --help, defaults included. */
void config_help(FILE *out);

#endif
