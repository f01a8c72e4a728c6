#!/usr/bin/env bash
# TER of sacrebleu with `asian_support` takes a Chinese sentence for one word, and its signature says `asian:yes`.
#
# Guess, written first: `TER(asian_support=True)` splits Chinese into characters, as its name and its signature say.
# Seen with sacrebleu 2.6.0: it does so only beside `normalized=True`; alone it changes nothing. A Chinese sentence
# without spaces is then one word, so that TER is 0 for an equal one and 100 for any other, and a translation whose words
# stand apart has 300. With both flags one wrong word of three costs 33. The signature that is to make scores comparable
# reads `asian:yes` in both cases, and so two papers with it may mean characters and whole sentences.
# For pretune: `metrics/ter.py` sets both flags for languages without spaces.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sacrebleu==2.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from sacrebleu.metrics import TER

print(f"sacrebleu {version('sacrebleu')}")
REFERENCE = "今天天气不错"
EXPECTED = [
    ({}, 100.0, "asian:no"),
    ({"asian_support": True}, 100.0, "asian:yes"),
    ({"normalized": True}, 100.0, "asian:no"),
    ({"asian_support": True, "normalized": True}, 33.33, "asian:yes"),
]
for settings, expected, said in EXPECTED:
    metric = TER(**settings)
    score = round(metric.sentence_score("今天天气很好", [REFERENCE]).score, 2)
    signature = str(metric.get_signature())
    print(f"{settings or 'defaults'}: TER {score} ({signature})")
    assert (score, said in signature) == (expected, True)
apart = TER(asian_support=True).sentence_score("今天 天气 不错", [REFERENCE]).score
print(f"the reference with spaces between its words, asian_support alone: TER {apart}")
assert apart == 300
PY
