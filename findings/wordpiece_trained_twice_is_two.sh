#!/usr/bin/env bash
# The same WordPiece tokenizer trained twice on the same text numbers its tokens differently: a model of one misreads the other.
#
# Guess, written first: training counts and merges, and draws nothing; the same text and settings give the same file.
# Seen with tokenizers 0.23.3, in processes of their own: BPE gives the same file each time, WordPiece mostly another one. The
# tokens are the same and their numbers are not: pieces that go on a word (`##a`) are numbered in the order of a hash table,
# and ties of counts are decided by number, so that learned tokens change places as well. `RAYON_NUM_THREADS=1` does not help. A
# vocabulary that is made again from its script is as large, has the same words and loads without a word; a model or token
# store of the other one reads other tokens by it.
# For pretune: pieces of one character are numbered by themselves; twice is the same file
# (`pretune/text/tokenizer/train.py`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
cd "$folder"
cat >train.py <<'PY'
import json
import random
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

random.seed(0)
words = ["".join(random.choices("abcdefghij", k=random.randint(2, 9))) for _ in range(3000)]
texts = [" ".join(random.choices(words, k=12)) for _ in range(4000)]
vocabularies = []
for model, trainer in (
    (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer),
    (models.BPE(unk_token="[UNK]"), trainers.BpeTrainer),
):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    settings = trainer(vocab_size=800, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, settings)
    vocabularies.append([tokenizer.get_vocab(), tokenizer.encode(" ".join(texts[:200])).ids])
json.dump(vocabularies, open(sys.argv[1], "w"))
PY
for number in 1 2 3 4; do
    RAYON_NUM_THREADS=1 "$folder/venv/bin/python" train.py "$number.json"
done
"$folder/venv/bin/python" - <<'PY'
import json
from importlib.metadata import version

print(f"tokenizers {version('tokenizers')}")
runs = [json.load(open(f"{number}.json")) for number in (1, 2, 3, 4)]
for place, name in enumerate(("WordPiece", "BPE")):
    first, ids = runs[0][place]
    moved = [sum(first.get(token) != other for token, other in run[place][0].items()) for run in runs]
    other = [sum(a != b for a, b in zip(ids, run[place][1])) / len(ids) for run in runs]
    same_words = [first.keys() == run[place][0].keys() for run in runs]
    print(f"{name}: {len(first)} tokens; numbers unlike the first run's {moved}; ids of a text {[f'{x:.0%}' for x in other]}")
    if name == "BPE":
        assert not any(moved)
    else:
        assert any(moved[1:]) and max(other) > 0
        print("the same tokens:", same_words)
        assert all(same_words)
PY
