#!/usr/bin/env bash
# sacrebleu takes '' for a reference of no words where its documentation says that it stands for none: BLEU 44.9 -> 100.
#
# Guess, written first: "A particular reference segment can be '' or `None` to allow the use of variable number of references
# per segment" (docstring of `_cache_references`): the two give the same score.
# Seen with sacrebleu 2.6.0: None is left out, '' is a reference of length 0. BLEU takes the reference length that is nearest
# to the hypothesis, so for a short hypothesis it is 0, and the brevity penalty is gone; TER counts the deletion of the
# hypothesis where that is shorter. The signature tells: nrefs:2 in place of nrefs:var.
# For pretune: an empty reference beside others is none, and a text with empty ones alone is refused with file and line.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sacrebleu==2.6.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from sacrebleu.metrics import BLEU, TER

hypotheses = ["the cat sat on the mat", "a dog barked at"]
first = ["the cat sat on the mat", "a dog barked at the old man who came to the door"]
scores = {}
for name, empty in (("None", None), ("''", "")):
    references = [first, ["a cat sat on the mat", empty]]
    bleu, ter = BLEU(), TER()
    result = bleu.corpus_score(hypotheses, references)
    scores[name] = (round(result.score, 1), round(result.bp, 3), round(ter.corpus_score(hypotheses, references).score, 1))
    print(f"sacrebleu {version('sacrebleu')}, {name:4}: BLEU {scores[name][0]}, brevity penalty {scores[name][1]}, "
          f"TER {scores[name][2]}, {str(bleu.get_signature()).split('|')[0]}")
assert scores["None"] == (44.9, 0.449, 44.4) and scores["''"] == (100.0, 1.0, 33.3), scores
PY
