#!/usr/bin/env bash
# One command for a machine with a GPU, under 9 minutes; raw JSON goes to $OUT (default: benchmarks/raw/gpu).
# It needs torch, numpy and safetensors only, and installs nothing. DEVICE=cpu runs the same paths without a GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OUT="${OUT:-benchmarks/raw/gpu}" PYTHONPATH="$PWD/src:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
export CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTHONUNBUFFERED=1
mkdir -p "$OUT"
python="${PYTHON:-python3}"
device="${DEVICE:-cuda}"
timeout 135 "$python" benchmarks/gpu/products.py --device "$device" --out "$OUT/products.json"
timeout 190 "$python" benchmarks/gpu/bits.py --device "$device" --out "$OUT/bits.json"
timeout 150 "$python" benchmarks/gpu/speed.py --device "$device" --out "$OUT/speed.json"
timeout 60 "$python" benchmarks/gpu/memory.py --device "$device" --out "$OUT/memory.json"
