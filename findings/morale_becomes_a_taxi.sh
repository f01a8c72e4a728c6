#!/usr/bin/env bash
# OpenCC turns "the aim" and "morale" into a taxi: conversions to the words of Taiwan replace across the borders of words.
#
# Guess, written first: `s2twp` writes simplified text in the characters and with the words of Taiwan; as its dictionary
# has phrases, what it replaces are words, and text that holds none of them is only written in other characters, as by
# `s2t`.
# Seen with OpenCC 1.4.2: the longest entry that fits at a place is taken, whether words begin and end there or not.
# "达到目的士气高涨" (once the aim is reached, morale is high) becomes "達到目計程車氣高漲", as 的士 is a taxi; "在线性代数中" (in linear algebra)
# becomes "線上性代數中" (online-ness algebra). `s2t` and `s2tw` are right, so is zhconv 1.4.1 with "zh-tw". `tw2sp` does not
# take it back: it gives 达到目出租车气高涨. What is made by it, for pretraining or for pairs of a parallel text, holds words that
# are none.
# For pretune: it converts no script; text is learned as it comes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet OpenCC==1.4.2 zhconv==1.4.1 setuptools==80.9.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import opencc
import zhconv

print({name: version(name) for name in ("OpenCC", "zhconv")})
CASES = [  # text, s2t and zhconv (zh-tw), s2twp
    ("达到目的士气高涨", "達到目的士氣高漲", "達到目計程車氣高漲"),
    ("在线性代数中", "在線性代數中", "線上性代數中"),
    ("他的目的不明", "他的目的不明", "他的目的不明"),
]
for text, expected, wrong in CASES:
    out = {name: opencc.OpenCC(name).convert(text) for name in ("s2t", "s2tw", "s2twp")}
    print(text, out, "zhconv:", zhconv.convert(text, "zh-tw"))
    assert out["s2t"] == out["s2tw"] == zhconv.convert(text, "zh-tw") == expected
    assert out["s2twp"] == wrong
back = opencc.OpenCC("tw2sp").convert(CASES[0][2])
print("and back by tw2sp:", back)
assert back == "达到目出租车气高涨"
PY
