# SPDX-License-Identifier: MIT
# What the log of a program of core/tools/test.sh says of its failures, in a few lines: awk -f what_failed.awk LOG
#
# The failed tests of cmocka and busted, each with the beginning and the end of what it printed; the test that was running when
# the log ended; what the sanitizers, the compiler, the fuzz targets and the models report. When a log has none of these, its end.

function tell(line) {
  if (++told <= LINES) print substr(line, 1, WIDTH)
  else if (told == LINES + 1) print "..."
}

# What was printed since the last test began or ended: at most LINES_OF_A_TEST lines, from both ends.
function tell_printed(   i, head) {
  head = LINES_OF_A_TEST / 2
  for (i = 1; i <= printed; i++) {
    if (printed > LINES_OF_A_TEST && i == head + 1) { tell("  ..."); i = printed - head + 1 }
    tell("  " lines[i])
  }
  printed = 0
}

BEGIN { LINES = 15; WIDTH = 240; LINES_OF_A_TEST = 8 }

{ sub(/\r$/, ""); all[++n] = $0 }

# Reports have a form that tells them from what a test prints.
/ERROR: (Address|Leak|Undefined)|WARNING: ThreadSanitizer|runtime error: |^SUMMARY: |^FAIL |: (fatal )?error: [^F]|undefined reference to|^make.*\*\*\* / {
  tell($0)
  next
}

/^\[==========\] .*Running / { summary = 0 }
/^\[==========\] .*(tests? from [0-9]+ test file|test\(s\) run)/ { summary = 1 } # names again what has been told
summary { next }

/^\[ RUN      \] / { running = $0; printed = 0; next }
/^\[       OK \] / || /^\[ +SKIPPED +\] / { running = ""; printed = 0; next }
/^\[  (FAILED|ERROR )  \] / && !/^\[  ERROR   \] --- / { tell($0); tell_printed(); running = ""; next }
/^\[[-=]+\]/ || /^ *$/ { next }
{ lines[++printed] = $0 }

END {
  if (running != "") tell(running " did not end")
  if (running != "" || !told) tell_printed()
  if (!told) for (i = (n > LINES ? n - LINES + 1 : 1); i <= n; i++) tell(all[i])
}
