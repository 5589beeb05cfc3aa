/*
 * Parsing with jansson 2.14 in memory of the document's own.
 *
 * jansson does not look whether the buffer of the token that it reads could grow. Without memory a
 * string loses its end and is read past it, and a number ends the process in an assertion. So while
 * a document is parsed, its memory comes from chunks, and when there is none for a further one,
 * a jump leaves the parser, which holds nothing else; the chunks are freed with the document.
 */
#include "server/strict_json.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>

enum { ALIGN = 16, CHUNK_BYTES = 8192 };

struct strict_json_chunk {
    _Alignas(ALIGN) struct strict_json_chunk *next;
    _Alignas(ALIGN) char bytes[];
};

/* jansson's hooks have no argument of ours. Set only while this thread parses. */
static _Thread_local struct {
    struct strict_json *doc;
    jmp_buf escape;
} parsing;

static void *take(size_t bytes)
{
    struct strict_json *doc = parsing.doc;
    if (!doc)
        return malloc(bytes);
    size_t rounded = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (rounded > doc->left) {
        size_t room = doc->next_room > rounded ? doc->next_room : rounded;
        struct strict_json_chunk *chunk = malloc(sizeof *chunk + room);
        if (!chunk)
            longjmp(parsing.escape, 1);
        doc->next_room *= 2; /* so that there are few */
        chunk->next = doc->chunks;
        doc->chunks = chunk;
        doc->at = chunk->bytes;
        doc->left = room;
    }
    void *piece = doc->at;
    doc->at += rounded;
    doc->left -= rounded;
    return piece;
}

static void give_back(void *p)
{
    if (!parsing.doc) /* else it goes with the document */
        free(p);
}

static void set_hooks(void)
{
    json_set_alloc_funcs(take, give_back);
}

bool strict_json_read(struct strict_json *doc, const char *text, size_t len)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_hooks);
    doc->root = NULL;
    doc->no_memory = false;
    doc->chunks = NULL;
    doc->at = doc->first;
    doc->left = sizeof doc->first;
    doc->next_room = CHUNK_BYTES;
    parsing.doc = doc;
    if (setjmp(parsing.escape) == 0)
        doc->root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &doc->fault);
    else
        doc->no_memory = true;
    parsing.doc = NULL;
    return doc->root != NULL;
}

void strict_json_free(struct strict_json *doc)
{
    for (struct strict_json_chunk *c = doc->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    doc->chunks = NULL;
    doc->root = NULL;
}
