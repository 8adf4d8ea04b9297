#!/bin/sh
# SPDX-License-Identifier: MIT
# Comments become those that Doxygen reads: the first one tells of the file, one that follows code on its line of that code, the others of what they stand
# before; headings of sections stay as they are, and words such as <key> are no tags.
exec sed -E -e '2s,^/\*$,/** @file,' -e 's,</?([a-z]),\&lt;\1,g' -e 's,^([^/]*[;{,0-9A-Z_][^/]*) /\*,\1 /**<,' \
  -e '/SPDX|\/\* -/!s,^( *)/\*( |$),\1/**\2,' "$1"
