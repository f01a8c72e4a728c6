#!/usr/bin/env bash
# conllu drops what stands behind a second "=" in MISC, all but the last of an attribute's values, and of a comment's.
#
# Guess, written first: `parse(text)` followed by `serialize()` gives back valid CoNLL-U; MISC, which the format leaves free, and
# comments most of all.
# Seen with conllu 6.0.0: `Ref=a=b` (an address, a formula, a nested gloss) becomes `Ref=a`; of `Entity=x|Entity=y` there is
# `Entity=y` alone, of two comments of one name the last. Words, multiword tokens, empty nodes, several heads, `_` as a form,
# forms with a blank and the order of FEATS come back as they were. No warning.
# For pretune: its reader takes the columns that a task names as they stand (`text/readers/conllu.py`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet conllu==6.0.0
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import conllu

print("conllu", version("conllu"))
COMMON = "# sent_id = 1\n# text = del x y\n"
FIRST = "1-2\tdel\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\tde\tADP\t_\tB=2|A=1,3\t3\tcase\t3:case\t_\n"
SECOND = "2\tel\tel\tDET\t_\t_\t3\tdet\t3:det|1:x:y\t_\n2.1\te\te\tX\t_\t_\t_\t_\t3:dep\t_\n"
ROOT = "3\tx y\t_\tNOUN\t_\t_\t0\troot\t0:root\t{}\n\n"


def again(comments: str, misc: str) -> str:
    text = comments + FIRST + SECOND + ROOT.format(misc)
    return conllu.parse(text)[0].serialize()


for comments, misc, kept_comments, kept in (
    (COMMON, "_", COMMON, "_"),
    (COMMON, "SpaceAfter=No|Free", COMMON, "SpaceAfter=No|Free"),
    (COMMON, "Ref=a=b", COMMON, "Ref=a"),
    (COMMON, "Link=https://a.org/?b=c", COMMON, "Link=https://a.org/?b"),
    (COMMON, "Entity=x|Entity=y", COMMON, "Entity=y"),
    (COMMON + "# note = one\n# note = two\n", "_", COMMON + "# note = two\n", "_"),
):
    out = again(comments, misc)
    lost = out != comments + FIRST + SECOND + ROOT.format(misc)
    print(f"MISC {misc!r}, {comments.count('#')} comments: {out.splitlines()[-2].split(chr(9))[-1]!r}, {out.count('#')} comments; {'something is lost' if lost else 'the same'}")
    assert out == kept_comments + FIRST + SECOND + ROOT.format(kept), out
PY
