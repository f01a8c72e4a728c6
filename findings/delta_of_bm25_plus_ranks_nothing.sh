#!/usr/bin/env bash
# The delta of BM25+ changes no rank in rank-bm25 and in bm25s: every document gets it, also those without the word.
#
# Guess, written first: BM25+ (Lv and Zhai 2011) lifts what a word adds by `delta` in the documents that hold it, so that
# a long one that holds it is well before all that do not; a larger `delta` changes differences, and in the end the order.
# Seen with rank-bm25 0.2.2 (`BM25Plus`) and bm25s 0.3.16 (`method="bm25+"`), which give the same scores: `delta` times
# the weight of the word is added to every document of the collection. Differences between documents are those without a
# delta, and with `delta=100` the order is that of 0. By the formula of the paper a long document with both words of a
# query is before a short one with a single word from a delta of 1 on; here it stays behind it. So the method is BM25 with
# another weight of words, a tuned delta is noise, and a document without any word of the query has a score far above 0.
# Nothing warns.
# For pretune: `search/words.py` uses Lucene's BM25, and what has no word of the query is no result.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rank-bm25==0.2.2 bm25s==0.3.16 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import logging
from importlib.metadata import version

import numpy as np
from rank_bm25 import BM25Plus

logging.disable(logging.INFO)
import bm25s  # noqa: E402 - it sets its loggers up when it is imported

LONG = ["tea", "milk", *(f"filler{n}" for n in range(120))]
SHORT = ["tea", "cup"]
DOCUMENTS = [LONG, SHORT, *([f"other{n}", f"more{n}"] for n in range(6))]
QUERY = ["tea", "milk"]
print(f"rank-bm25 {version('rank-bm25')}, bm25s {version('bm25s')}")


def other(delta: float) -> np.ndarray:
    index = bm25s.BM25(method="bm25+", k1=1.5, b=0.75, delta=delta)
    index.index(DOCUMENTS, show_progress=False)
    return index.get_scores(QUERY)


def paper(delta: float) -> np.ndarray:
    """The formula of the paper, with the weight of words that both packages take."""
    average = np.mean([len(document) for document in DOCUMENTS])
    out = np.zeros(len(DOCUMENTS))
    for word in QUERY:
        weight = np.log((len(DOCUMENTS) + 1) / sum(word in document for document in DOCUMENTS))
        for number, document in enumerate(DOCUMENTS):
            times = document.count(word)
            if times:
                out[number] += weight * (delta + times * 2.5 / (1.5 * (0.25 + 0.75 * len(document) / average) + times))
    return out


plain = BM25Plus(DOCUMENTS, delta=0).get_scores(QUERY)
assert plain[1] > plain[0] > plain[2] == 0, "without a delta the short document is first"
np.testing.assert_allclose(plain, paper(0))
for delta in (1, 5, 100):
    scores, expected = BM25Plus(DOCUMENTS, delta=delta).get_scores(QUERY), paper(delta)
    print(f"delta {delta}: long {scores[0]:.3f}, short {scores[1]:.3f}, without a word {scores[2]:.3f}; "
          f"by the paper: {expected[0]:.3f}, {expected[1]:.3f}, {expected[2]:.3f}")
    np.testing.assert_allclose(other(delta), scores, rtol=1e-4)
    np.testing.assert_allclose(scores - scores[2], plain, atol=1e-9)
    assert expected[0] > expected[1] > expected[2] == 0
PY
