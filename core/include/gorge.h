/* SPDX-License-Identifier: MIT */
/*
 * libgorge for C programs. Everything there is to say stands in gorge_ffi.h, gorge_ffi_io.h and gorge_ffi_look.h, which the Lua side shares;
 * this header adds what ffi.cdef cannot read: guards, standard types and symbol visibility.
 */
#ifndef GORGE_H
#define GORGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The library is built with -fvisibility=hidden: exactly the functions declared in here are exported. */
#pragma GCC visibility push(default)
#include "gorge_ffi.h"
#include "gorge_ffi_io.h"
#include "gorge_ffi_look.h"
#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
