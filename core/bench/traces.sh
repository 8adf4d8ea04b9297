#!/bin/bash
# SPDX-License-Identifier: MIT
# Hit ratios of L1 under all traces of a folder: traces.sh PROGRAM FOLDER
#
# The folder has NAME.u32.gz or NAME.u32s.gz (see trace.c) and sizes.txt, of which each line is: GROUP NAME SIZE[,SIZE...]
# Traces that are not there are left out. What reference.txt says of a simulator's `dt` and `s3fifo`, if it is there, is shown below.
set -u
program=$1 folder=$2
[ -r "$folder/sizes.txt" ] || { echo "traces: no sizes.txt in $folder" >&2; exit 1; }

table=$(mktemp) || exit 1
trap 'rm -f "$table"' EXIT
echo "                                    entries       hits, of bytes       S3-FIFO         optimum"
echo "trace              size  capacity  resident     %       %        %       %        %       %"
while read -r group name sizes; do
  for file in "$folder/$name.u32.gz" "$folder/$name.u32s.gz"; do
    [ -r "$file" ] || continue
    "$program" "$file" "$sizes" | tee >(sed "s/^/$group /" >> "$table") || exit 1
  done
done < "$folder/sizes.txt"
wait

echo
awk '
  function add(g) { n[g]++; ours[g] += $6 / $10; s3[g] += $8 / $10 }
  { add($1); add("all"); if ($1 == "web" || $1 == "db") add("web and db") }
  $2 == "loop" && $3 == "50%" { loop = $6 }
  END {
    printf "mean of hits / optimum     L1  S3-FIFO  sizes\n"
    split("web,db,web and db,blk,adv,all", groups, ",")
    for (i = 1; i in groups; i++) {
      g = groups[i]
      if (n[g]) printf "%-20s %8.4f %8.4f %6d\n", g, ours[g] / n[g], s3[g] / n[g], n[g]
    }
    if (loop != "") printf "loop at 50 %%: %.1f %%\n", loop
  }' "$table"
if [ -r "$folder/reference.txt" ]; then
  echo
  echo "the simulator, $folder/reference.txt:"
  grep -E '^(policy|opt|dt|s3fifo) ' "$folder/reference.txt"
fi
