#!/usr/bin/env bash
# sacrebleu's paired tests say that a system differs significantly from itself: p = 0.001 (bootstrap), 0.0001 (randomization).
#
# Guess, written first: two systems that wrote the same texts differ by nothing, chance makes a difference at least as large
# every time, and p is 1.
# Seen with sacrebleu 2.6.0: `significance.py` counts draws whose difference is larger than the real one (`>`), where Noreen
# 1989 and Riezler and Maxwell 2005 count those at least as large. With equal outputs no draw is larger than 0, so p is
# 1 / (draws + 1), the smallest there is, and the command line marks the system with an asterisk. The same happens by half
# wherever draws tie: a score that few texts change, such as TER of systems that differ in two of 500 texts.
# For pretune: ties count as chance, so equal systems have p = 1; where no draw ties the p-values are sacrebleu's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sacrebleu==2.6.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

texts = ["the cat sat on the mat today", "a dog"] * 100
references = ["the cat sat on a mat", "a dog barks"] * 100
values = {}
for test in ("bs", "ar"):
    systems = [("first", texts), ("the same again", list(texts))]
    values[test] = PairedTest(systems, {"BLEU": BLEU()}, [references], test)()[1]["BLEU"][1].p_value
print(f"sacrebleu {version('sacrebleu')}: 200 texts beside themselves: p = {values['bs']:.6f} by paired bootstrap, "
      f"{values['ar']:.6f} by approximate randomization")
assert round(values["bs"], 6) == round(1 / 1001, 6) and round(values["ar"], 6) == round(1 / 10001, 6)
PY
