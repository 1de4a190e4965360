#!/usr/bin/env bash
# One command for a machine with a GPU, under 9 minutes; raw JSON goes to $OUT (default: benchmarks/raw/gpu).
# It needs torch, numpy and safetensors only, and installs nothing. DEVICE=cpu runs the same paths without a GPU.
# Each part writes what it has found as it goes, and a part that fails or runs out of time leaves the others theirs.
set -uo pipefail
cd "$(dirname "$0")/../.."
export OUT="${OUT:-benchmarks/raw/gpu}" PYTHONPATH="$PWD/src:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
export CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTHONUNBUFFERED=1
mkdir -p "$OUT"
python="${PYTHON:-python3}"
device="${DEVICE:-cuda}"
status=0

part() { # seconds name
  local started=$SECONDS
  timeout -k 5 "$1" "$python" "benchmarks/gpu/$2.py" --device "$device" --out "$OUT/$2.json" || {
    echo "$2: ended with $? (124: its $1 seconds ran out)"
    return 1
  }
  echo "$2: $((SECONDS - started)) s"
}

part 185 products || status=1
# Neither of these two is a timing.
part 140 bits &
bits=$!
part 140 memory || status=1
wait "$bits" || status=1
part 195 speed || status=1
exit "$status"
