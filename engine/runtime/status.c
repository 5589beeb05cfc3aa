/* Status names and error messages: the one place that formats what the library tells its caller. */
#include <convd/status.h>

#include "engine/runtime/utf8.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

const char *cvd_status_name(enum cvd_status status)
{
    static const char *const names[CVD_STATUS_COUNT] = {
        [CVD_STATUS_OK] = "ok",
        [CVD_STATUS_INVALID_ARGUMENT] = "invalid_argument",
        [CVD_STATUS_INVALID_MODEL] = "invalid_model",
        [CVD_STATUS_INVALID_DATA] = "invalid_data",
        [CVD_STATUS_UNSUPPORTED] = "unsupported",
        [CVD_STATUS_UNSUPPORTED_HARDWARE] = "unsupported_hardware",
        [CVD_STATUS_OUT_OF_MEMORY] = "out_of_memory",
        [CVD_STATUS_IO] = "io",
        [CVD_STATUS_STATE] = "state",
        [CVD_STATUS_CANCELLED] = "cancelled",
        [CVD_STATUS_INTERNAL] = "internal",
    };
    if ((unsigned)status >= CVD_STATUS_COUNT)
        return "unknown";
    return names[status];
}

/* Names in a message may come from a hostile file, and the message may end up on a terminal, in a
 * log line or in JSON: no control character (C0, DEL, C1) and no malformed UTF-8 gets through. */
static void clean(char *text, size_t len, bool cut)
{
    for (size_t i = 0; i < len;) {
        size_t n = utf8_sequence(text + i, len - i);
        if (n == 0 && cut && len - i < 4 && ((unsigned char)text[i] & 0xc0) == 0xc0) {
            text[i] = '\0'; /* the buffer's end fell inside this character */
            return;
        }
        bool c0 = n == 1 && ((unsigned char)text[i] < 0x20 || text[i] == 0x7f);
        bool c1 = n == 2 && (unsigned char)text[i] == 0xc2 && (unsigned char)text[i + 1] < 0xa0;
        if (n == 0 || c0 || c1) {
            n = n ? n : 1;
            memset(text + i, '?', n);
        }
        i += n;
    }
}

enum cvd_status cvd_error_set(struct cvd_error *err, enum cvd_status status, const char *format,
                              ...)
{
    if (!err)
        return status;
    /* Arguments may point into err->message, so it is not written until they have been read. */
    char text[CVD_ERROR_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    int written = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (written < 0)
        text[0] = '\0';
    clean(text, strlen(text), written >= (int)sizeof(text));
    err->status = status;
    memcpy(err->message, text, sizeof(text));
    return status;
}
