#!/usr/bin/env bash
# The package rouge gives F 1.0 to a text that repeats its reference four times, and to one with its sentences turned
# round.
#
# Guess, written first: ROUGE-1 clips counts, so that "the cat" four times over has a precision of 2 in 8; ROUGE-L is
# about the order of the whole text. The package says that it is a full implementation, and rouge-score is its like.
# Seen with rouge 1.0.1, rouge-chinese 1.0.3 beside rouge-score 0.1.2: n-grams are sets by default (`exclusive`), so that
# a word counts once: the text that repeats has ROUGE-1 (and in rouge ROUGE-L) of precision, recall and F 1.0, where
# rouge-score says F 0.4. Four repetitions are what a language model falls into when it fails. ROUGE-L takes a text apart
# at full stops and collects for each sentence what any sentence has in common with it: with the two halves turned round
# it is 1.0 in place of 0.5. rouge-chinese does the former in ROUGE-1. Nothing in the result says so.
# For pretune: ROUGE is that of rouge-score, on words that `metrics/words.py` cuts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rouge==1.0.1 rouge-chinese==1.0.3 rouge-score==0.1.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from rouge import Rouge
from rouge_chinese import Rouge as ChineseRouge
from rouge_score.rouge_scorer import RougeScorer

print({name: version(name) for name in ("rouge", "rouge-chinese", "rouge-score")})


def compare(text: str, reference: str) -> list[tuple[float, float]]:
    """F of rouge and of rouge-score, for ROUGE-1 and ROUGE-L."""
    one, other = Rouge().get_scores(text, reference)[0], RougeScorer(["rouge1", "rougeL"]).score(reference, text)
    out = [(round(one[a]["f"], 3), round(other[b].fmeasure, 3)) for a, b in (("rouge-1", "rouge1"), ("rouge-l", "rougeL"))]
    print(f"{text!r} for {reference!r}: ROUGE-1 {out[0]}, ROUGE-L {out[1]}")
    return out


assert compare("the cat", "the cat") == [(1.0, 1.0), (1.0, 1.0)]
assert compare("the cat the cat the cat the cat", "the cat") == [(1.0, 0.4), (1.0, 0.4)]
assert compare("a b c d . e f g h", "e f g h . a b c d") == [(1.0, 1.0), (1.0, 0.5)]
chinese = ChineseRouge().get_scores("很 好 很 好 很 好 很 好", "很 好")[0]
print("rouge-chinese, 很 好 four times:", {name: round(values["f"], 3) for name, values in chinese.items()})
assert chinese["rouge-1"]["p"] == 1.0 and abs(chinese["rouge-l"]["f"] - 0.4) < 1e-6
PY
