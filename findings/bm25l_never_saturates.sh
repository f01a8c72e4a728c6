#!/usr/bin/env bash
# In rank-bm25's BM25L a word counts as often as it stands there: 32 repetitions weigh 61 times as much as one.
#
# Guess, written first: BM25L (Lv and Zhai 2011) mends the length normalisation of BM25, and like every BM25 what one word
# adds saturates: it stays below (k1 + 1) times its weight however often the word is repeated.
# Seen with rank-bm25 0.2.2: the saturated value is multiplied by how often the word stands in the document once more, so
# that scores grow in proportion. Of documents of one length, the one that repeats one of two query words four times is
# before the one that holds both, which BM25Okapi and BM25Plus of the same package and `method="bm25l"` of bm25s put
# first. Nothing warns; texts that repeat a word win.
# For pretune: `search/words.py` uses Lucene's BM25.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rank-bm25==0.2.2 bm25s==0.3.16 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import logging
from importlib.metadata import version

from rank_bm25 import BM25L, BM25Okapi, BM25Plus

logging.disable(logging.INFO)
import bm25s  # noqa: E402 - it sets its loggers up when it is imported

OTHERS = [[f"other{n}", f"more{n}"] * 20 for n in range(10)]
print(f"rank-bm25 {version('rank-bm25')}, bm25s {version('bm25s')}")


def others(method: str, documents: list[list[str]], query: list[str]) -> list[float]:
    index = bm25s.BM25(method=method, k1=1.5, b=0.75)
    index.index(documents, show_progress=False)
    return index.get_scores(query).tolist()


def document(**words: int) -> list[str]:
    """40 words: those that are named, and a filler."""
    out = [word for word, times in words.items() for _ in range(times)]
    return out + ["filler"] * (40 - len(out))


growing = [document(tea=times) for times in (1, 2, 4, 8, 16, 32)] + OTHERS
lines = {"BM25L": BM25L(growing).get_scores(["tea"]), "BM25Okapi": BM25Okapi(growing).get_scores(["tea"]),
         "bm25s bm25l": others("bm25l", growing, ["tea"])}  # fmt: skip
for name, scores in lines.items():
    print(f"{name}, 1 to 32 times the word:", [round(float(score), 2) for score in scores[:6]])
    assert scores[5] > 40 * scores[0] if name == "BM25L" else scores[5] < 2.5 * scores[0]

documents, query = [document(tea=4), document(tea=1, milk=1), *OTHERS], ["tea", "milk"]
repeated, both = BM25L(documents).get_scores(query)[:2]
print(f"BM25L: {repeated:.2f} for one word four times, {both:.2f} for both words")
assert repeated > both
for scores in (BM25Okapi(documents).get_scores(query), BM25Plus(documents).get_scores(query), others("bm25l", documents, query)):
    print(f"others: {scores[0]:.2f} and {scores[1]:.2f}")
    assert scores[0] < scores[1]
PY
