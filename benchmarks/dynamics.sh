#!/bin/sh
# The tables of docs/dynamics.md: the German demo with kept steps, when it was learned, and where it lies.
# An hour on two cores; `sh benchmarks/dynamics.sh [FOLDER OF RUNS]`, after `prealign fetch de`.
set -e
out=${1:-runs}
parallel=${PREALIGN_CACHE:-$HOME/.cache/prealign_cpt}/bible-de/parallel.test.tsv
export OMP_NUM_THREADS=1
git rev-parse --short HEAD
prealign export launch/recipes/demo_de.toml --out "$out" --name kept_de --train.save_at log
prealign trajectory "$out/kept_de" --parallel "$parallel" --max-bytes 3000 --max-items 60
prealign layers "$out/kept_de" --parallel "$parallel" --max-bytes 2000 --max-items 40
prealign report "$out/kept_de"
