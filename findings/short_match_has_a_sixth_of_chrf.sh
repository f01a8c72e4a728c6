#!/usr/bin/env bash
# torchmetrics gives an answer of one letter that is right a chrF of 16.7 %, and one of three letters 50 %; sacrebleu 100.
#
# Guess, written first: `chrf_score(..., n_word_order=0)` is the chrF of sacrebleu, which its documentation names as the
# origin of its code and defaults; a text equal to its reference has the highest score there is.
# Seen with torchmetrics 1.9.0 beside sacrebleu 2.6.0: F is summed over the runs of 1 to 6 characters and divided by 6,
# also where text and reference have no run of 4, 5 or 6; sacrebleu divides by the orders that both have. So equal texts
# of one letter have 16.7, of two letters 33.3, of five 83.3, and chrF++ (a word or two more) 25 for a word of one letter.
# Chinese words, digits, labels and multiple-choice letters are that short. Texts of six letters and more agree within
# 0.01. No warning.
# For pretune: chrF is sacrebleu's own (`metrics/chrf.py`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0 sacrebleu==2.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import sacrebleu
from torchmetrics.functional.text import chrf_score

print({name: version(name) for name in ("torchmetrics", "sacrebleu", "torch")})


def compare(text: str, reference: str, words: int = 0) -> tuple[float, float]:
    ours = 100 * float(chrf_score([text], [[reference]], n_word_order=words))
    theirs = sacrebleu.corpus_chrf([text], [[reference]], word_order=words).score
    print(f"{text!r} for {reference!r}, word order {words}: torchmetrics {ours:.2f}, sacrebleu {theirs:.2f}")
    return ours, theirs


for text in ("B", "是", "42", "北京", "cat", "Paris"):
    ours, theirs = compare(text, text)
    assert abs(ours - 100 * len(text) / 6) < 0.01 and abs(theirs - 100) < 0.01
ours, theirs = compare("B", "B", words=2)
assert abs(ours - 25) < 0.01 and abs(theirs - 100) < 0.01
for text, reference in (("London", "London"), ("The cat sat on the mat, looking.", "A cat was sitting on a mat.")):
    ours, theirs = compare(text, reference)
    assert abs(ours - theirs) < 0.01
PY
