#!/usr/bin/env bash
# ftfy, which repairs broken text, takes a sound Chinese text's commas and quotes for wide ASCII and leaves its full
# stops.
#
# Guess, written first: `fix_text` changes what is broken (mojibake, entities, control characters); a text in which
# nothing is broken comes back as it was, whatever its script, or its marks are all treated alike.
# Seen with ftfy 6.3.1: "他说：“你好！”，（真的？）。" comes back as "他说:"你好!",(真的?)。": colon, comma, exclamation and question mark,
# brackets and quotes become those of ASCII, as `fix_character_width` and `uncurl_quotes` are on; "。" and "、", which have
# no wide form, stay. So a cleaned corpus has marks of two kinds, a tokenizer learns other tokens than the texts of a user
# have, and offsets of labels stay where they were only as long as one character becomes one. `fix_encoding` alone leaves
# the text as it is.
# For pretune: text is learned as it comes; the normalizer is that of the tokenizer, which acts when a user asks, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ftfy==6.3.1 wcwidth==0.9.4
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import ftfy

print("ftfy", version("ftfy"))
CASES = [
    ("他说：“你好！”，（真的？）。", '他说:"你好!",(真的?)。'),
    ("红、黄、蓝；１２３。", "红、黄、蓝;123。"),
    ("「東京」、『大阪』。", "「東京」、『大阪』。"),
    ("the “cat”, the ‘dog’", "the \"cat\", the 'dog'"),
]
for text, expected in CASES:
    fixed = ftfy.fix_text(text)
    print(text, "->", fixed)
    assert fixed == expected
    assert ftfy.fix_encoding(text) == text, "nothing in it is broken"
    assert ftfy.fix_text(text, fix_character_width=False, uncurl_quotes=False) == text
PY
