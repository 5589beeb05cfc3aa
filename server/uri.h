/* Percent-decoding and query strings. */
#ifndef CONVD_SERVER_URI_H
#define CONVD_SERVER_URI_H

#include "server/request.h"

/* Decodes %XX in place ('+' too becomes a space when form is true). False, with the text in an
 * undefined state, for a malformed escape or when NUL or another control character comes out. */
bool uri_decode(char *text, bool form);

/* Cuts up "a=1&b" in place into decoded pairs. False for a malformed escape or more than max. */
bool uri_query(char *query, struct request_arg *args, unsigned max, unsigned *count);

#endif
