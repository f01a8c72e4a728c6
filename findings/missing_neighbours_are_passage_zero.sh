#!/usr/bin/env bash
# usearch fills the places of neighbours that it did not find with key 0, which is the first passage of most indexes.
#
# Guess, written first: a search of several queries for more neighbours than there are gives as many as there are, or
# marks the missing ones with -1, as faiss does.
# Seen with usearch 2.26.6: a single query gives as many keys as it found; several at once give a rectangle whose missing
# places have the key 0 and the distance NaN, and only `counts` says how many are real. Passage 0 then stands in a row
# twice, or is found after it was removed: who reads `keys` alone, as one does for one query, cites it as evidence. This
# happens with fewer passages than neighbours wanted, and after removals.
# For pretune: `search/backends/usearch.py` asks one query at a time, whose keys are all real.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet usearch==2.26.6 faiss-cpu==1.14.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import faiss
import numpy as np
from usearch.index import Index

print(f"usearch {version('usearch')}, faiss-cpu {version('faiss-cpu')}")
vectors = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
index = Index(ndim=8, metric="l2sq", dtype="f32")
index.add(np.arange(4), vectors)
index.remove(0)
one, several = index.search(vectors[1], 5), index.search(vectors[:2], 5)
print(f"one query: {one.keys.tolist()}; two at once: {several.keys.tolist()}, counts {several.counts.tolist()}")
assert 0 not in one.keys.tolist() and len(one.keys) == 3
assert several.keys.shape == (2, 5) and several.counts.tolist() == [3, 3]
assert (several.keys[:, 3:] == 0).all(), "passage 0 was removed, and fills the places of what is missing"
assert np.isnan(several.distances[:, 3:]).all()
other = faiss.IndexFlatL2(8)
other.add(vectors[1:])
keys = other.search(vectors[:2], 5)[1]
print(f"faiss, two at once: {keys.tolist()}")
assert (keys[:, 3:] == -1).all()
PY
