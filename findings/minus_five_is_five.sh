#!/usr/bin/env bash
# lm-eval's exact match that ignores punctuation takes -5 for 5 and 3.5 for 35, and Chinese punctuation for text.
#
# Guess, written first: `ignore_punctuation` of `exact_match` forgives the full stop that ends an answer, in any script; numbers
# keep what makes them other numbers, for which there is `ignore_numbers`.
# Seen with lm-eval 0.4.13: the marks of ASCII are taken out of both sides, wherever they stand: "-5" equals "5", "3.5" equals
# "35", "1/2" equals "12", "C#" equals "C++", "10%" equals "10". Full-width marks are not: of "北京。" and "北京" the exact match
# stays 0, as of “yes” in curly quotes. Blanks that are left stay, too: "a - b" is not "a b".
# So an answer of the wrong sign counts as right, and Chinese answers that are right as wrong.
# For pretune: `evaluate lm` scores by likelihoods; an exact match of answers is that of SQuAD and CMRC 2018.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lm-eval==0.4.13
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
from importlib.metadata import version

from lm_eval.api.metrics import exact_match_hf_evaluate

print("lm-eval", version("lm-eval"))
CASES = [
    ("Paris.", "Paris", 1), ("-5", "5", 1), ("3.5", "35", 1), ("1/2", "12", 1), ("C#", "C++", 1), ("10%", "10", 1),
    ("北京。", "北京", 0), ("“yes”", "yes", 0), ("是！", "是", 0), ("a - b", "a b", 0),
]  # fmt: skip
for answer, reference, expected in CASES:
    plain = exact_match_hf_evaluate(predictions=[answer], references=[reference])["exact_match"]
    score = exact_match_hf_evaluate(predictions=[answer], references=[reference], ignore_punctuation=True)["exact_match"]
    print(f"{answer!r} for {reference!r}: {plain:g}; punctuation ignored: {score:g}")
    assert plain == 0 and score == expected
PY
