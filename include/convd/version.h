/* Version of convd and of libconvd's interface, as numbers and as text. */
#ifndef CONVD_VERSION_H
#define CONVD_VERSION_H

#define CVD_VERSION_MAJOR 0
#define CVD_VERSION_MINOR 1
#define CVD_VERSION_PATCH 0
#define CVD_VERSION       "0.1.0"

#endif
