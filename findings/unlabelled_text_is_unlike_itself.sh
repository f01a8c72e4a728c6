#!/usr/bin/env bash
# SetFit trains on pairs of a text with itself, and where a text has no label of several, that pair is a negative one.
#
# Guess, written first: positive pairs are two texts with a common label; a pair of a text with itself teaches nothing.
# With several labels a text, two texts without any label are alike or make no pair, and no text is unlike itself.
# Seen with setfit 1.2.0: every text makes a pair with itself. Of 2 texts a class, as in few-shot sets, two of three
# positive pairs are such ones, of 8 a class 8 of 36, also with the strategy "unique"; their loss is 0 from the start, so
# that an epoch has fewer pairs to learn from than it says. With `multilabel=True` a text whose labels are all 0 has
# itself, with the cosine 0.0 asked of a vector with itself, among its negative pairs, and so has any two of them: the
# loss can never be 0. Nothing warns.
# For pretune: the contrast of labels (`objectives/label_contrast.py`) leaves the pair of a vector with itself out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 setfit==1.2.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
from importlib.metadata import version

from setfit.sampler import ContrastiveDataset

print({name: version(name) for name in ("setfit", "sentence-transformers", "transformers")})


def pairs(texts: list[str], labels: list[int] | list[list[int]], **settings: object) -> list[tuple[str, str, float]]:
    data = ContrastiveDataset(texts, labels, **settings)
    return [(row["sentence_1"], row["sentence_2"], float(row["label"])) for row in data]


for shots, expected in ((2, (6, 4)), (8, (72, 16))):
    texts = [f"{name}{number}" for name in "ab" for number in range(shots)]
    found = pairs(texts, [0] * shots + [1] * shots, multilabel=False, sampling_strategy="unique")
    positive = {frozenset(pair[:2]) for pair in found if pair[2] == 1}
    alone = sum(len(pair) == 1 for pair in positive)
    print(f"{shots} texts a class: {len(positive)} positive pairs, {alone} of a text with itself")
    assert (len(positive), alone) == expected

found = pairs(["a", "b", "none", "nothing"], [[1, 0], [0, 1], [0, 0], [0, 0]], multilabel=True)
print("without labels:", sorted({pair for pair in found if pair[0] == pair[1]}))
assert {("none", "none", 0.0), ("nothing", "nothing", 0.0), ("none", "nothing", 0.0), ("a", "a", 1.0)} <= set(found)
PY
