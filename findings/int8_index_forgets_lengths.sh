#!/usr/bin/env bash
# A usearch index of dtype i8 with the metric ip or l2sq ranks by direction alone: of the nearest by distance 14 % are found.
#
# Guess, written first: `dtype="i8"` stores each vector with fewer bits, so that an exact search finds nearly the same ten
# as one in f32, by inner product and by distance as by cosine; the 8-bit floats do so.
# Seen with usearch 2.26.6: each vector, stored or asked, is scaled to the length 127 before it is rounded. By cosine nearly
# all of the ten nearest are found; of vectors whose lengths differ 44 % by inner product and 14 % by distance, and what is
# found instead are those by cosine. Nothing warns; `get` gives whole numbers of the same length for all. f16, e5m2 and e4m3
# find 90 % or more by any metric.
# For pretune: vectors are of length 1 before they are indexed, and the graph holds f16 (`search/backends/usearch.py`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet usearch==2.26.6 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from usearch.index import Index

COUNT, WIDTH, NEAREST = 500, 32, 10
draw = np.random.default_rng(0)
vectors = draw.normal(size=(COUNT, WIDTH)) * draw.uniform(0.2, 5.0, size=(COUNT, 1))  # of different lengths
vectors, queries = vectors.astype(np.float32), draw.normal(size=(50, WIDTH)).astype(np.float32)
print(f"usearch {version('usearch')}")


def found(metric: str, dtype: str) -> np.ndarray:
    index = Index(ndim=WIDTH, metric=metric, dtype=dtype)
    index.add(np.arange(COUNT), vectors)
    return np.asarray(index.search(queries, NEAREST, exact=True).keys)


def common(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / NEAREST for a, b in zip(left.tolist(), right.tolist(), strict=True)]))


cosine = found("cos", "f32")
for metric in ("cos", "ip", "l2sq"):
    wanted = found(metric, "f32")
    for dtype in ("f16", "e5m2", "e4m3", "i8"):
        here = found(metric, dtype)
        share, by_cosine = common(here, wanted), common(here, cosine)
        print(f"{metric}, {dtype}: {share:.0%} of the ten nearest in f32, {by_cosine:.0%} of those by cosine")
        if dtype == "i8":
            assert by_cosine > 0.9
            assert share > 0.9 if metric == "cos" else share < 0.7
        else:
            assert share > 0.85
index = Index(ndim=WIDTH, metric="l2sq", dtype="i8")
index.add(np.arange(COUNT), vectors)
lengths = np.linalg.norm(np.asarray(index.get(np.arange(COUNT)), np.float32), axis=1)
print(f"lengths given: {np.linalg.norm(vectors, axis=1).min():.1f} to {np.linalg.norm(vectors, axis=1).max():.1f}; stored: {lengths.min():.1f} to {lengths.max():.1f}")
assert lengths.max() / lengths.min() < 1.1
PY
