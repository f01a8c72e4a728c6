#!/usr/bin/env bash
# bm25s gives back the documents that its `weight_mask` leaves out wherever fewer than k others match.
#
# Guess, written first: a document with 0 in `weight_mask` is never among the results: "the scores for the masked documents
# will be set to 0 to avoid returning them" (docstring of `retrieve`). Where fewer than k are left, fewer come back.
# Seen with bm25s 0.3.16: k documents come back always. Those without a word of the query have the score 0 too, and which of
# them is taken is a matter of their order: a filter by language or date, or deleted documents, come back as results. The
# same happens with a query of words that the index does not have, or of stopwords alone (`tokenize` drops English ones by
# default): the last k documents, masked or not, with the score 0. BM25+ and BM25L give every document that is not masked a
# score above 0, so that there 0 means masked.
# For pretune: what has no word of the query, or is not allowed, is no result (`search/words.py`), even if fewer are left.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet bm25s==0.3.16 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import bm25s
import numpy as np

DOCUMENTS = ["alpha beta", "alpha gamma", "delta epsilon", "zeta eta", "theta iota"]
MASK = np.array([0, 1, 1, 0, 0])  # only the second and the third may be found
print(f"bm25s {version('bm25s')}")


def found(method: str, query: str, k: int) -> dict[int, float]:
    index = bm25s.BM25(method=method)
    index.index(bm25s.tokenize(DOCUMENTS, show_progress=False), show_progress=False)
    out = index.retrieve(bm25s.tokenize([query], show_progress=False), k=k, weight_mask=MASK, show_progress=False)
    result = {int(n): round(float(score), 3) for n, score in zip(out.documents[0], out.scores[0], strict=True)}
    masked = [n for n in result if not MASK[n]]
    print(f"{method}, {query!r}, k={k}: {result}; masked out and found: {masked}")
    return result


for method in ("lucene", "robertson", "atire"):
    assert set(found(method, "alpha", 1)) == {1}
    result = found(method, "alpha", 3)
    assert result[1] > 0 and any(not MASK[n] for n in result)
for query in ("unknown", "to be or not to be"):
    assert set(found("lucene", query, 3)) == {2, 3, 4}, "the last three, two of them masked"
for method in ("bm25l", "bm25+"):
    result = found(method, "alpha", 3)
    assert [n for n, score in result.items() if score == 0] == [n for n in result if not MASK[n]] != []
    assert result[1] > result[2] > 0
PY
