#!/usr/bin/env bash
# Of the pairs of equal label from which SetFit learns, 22 % are a text and itself where there are 8 of a label; of one text of
# a label, all are.
#
# Guess, written first: the two texts of a pair are different ones.
# Seen with setfit 1.2.0, transformers 5.23.0: pairs are drawn from all combinations *with* repetition, so that n texts of a label have
# n (n + 1) / 2 pairs, n of them of a text and itself: 16 of 72 for 8 texts of each of two labels, and 70 of 320 with `num_iterations=20`.
# Their vectors differ by dropout alone, so that such a pair says nothing of labels. A label with one text has no other positive
# pair and is learned by what it is unlike; no line says so.
# For pretune: its contrast over labels leaves each text's likeness to itself out of both sums (`tests/objectives/test_label_contrast.py`),
# and a text whose label no other of the batch has is not counted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 setfit==1.2.0 transformers==5.23.0 sentence-transformers==6.2.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

from setfit.sampler import ContrastiveDataset

print({name: version(name) for name in ("setfit", "transformers", "sentence-transformers")})


def pairs(count: int, labels: int, iterations: int | None = None) -> tuple[int, int, int]:
    texts, numbers = [f"text {n}" for n in range(count * labels)], [n % labels for n in range(count * labels)]
    rows = list(ContrastiveDataset(texts, numbers, multilabel=False, num_iterations=iterations, sampling_strategy="unique"))
    alike = [row for row in rows if row["label"] == 1.0]
    return len(alike), sum(row["sentence_1"] == row["sentence_2"] for row in alike), len(rows) - len(alike)


for count, iterations in ((8, None), (8, 20), (4, None), (2, None), (1, None)):
    alike, own, unlike = pairs(count, 2, iterations)
    shown = "all pairs once" if iterations is None else f"num_iterations={iterations}"
    print(f"{count} texts of each of 2 labels, {shown}: {alike} pairs of equal label, {own} of a text and itself; {unlike} of others")
    if iterations is None:
        assert (alike, own) == (count * (count + 1), 2 * count)
    else:
        assert own / alike > 0.2
assert pairs(1, 3)[:2] == (3, 3)
PY
