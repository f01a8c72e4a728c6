#!/usr/bin/env bash
# rjieba, which RoFormer's tokenizer in transformers needs, cuts Latin words, scores and dates otherwise than jieba.
#
# Guess, written first: rjieba is jieba in Rust with the same dictionary, and gives the same words.
# Seen with rjieba 0.2.2 and jieba 0.42.1: Chinese words are the same in all examples here, but what is joined by hyphens
# or full stops is one word in rjieba (GPT-4, 10.4.5, 5-302) and several in jieba. A model that was pretrained on the
# words of one gets `[UNK]` or other pieces from the other, and `RoFormerTokenizer` of transformers 5 cuts by rjieba.
# For pretune: words are jieba's (`text/tokenizer/segmenter.py`, `search/tokenizations/jieba.py`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jieba==0.42.1 rjieba==0.2.2 "setuptools<81"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import jieba
import rjieba

jieba.setLogLevel(60)
print(f"jieba {version('jieba')}, rjieba {version('rjieba')}")
EXPECTED = {
    "我用GPT-4写代码": ("我用/GPT/-/4/写/代码", "我用/GPT-4/写/代码"),
    "版本10.4.5发布": ("版本/10.4/./5/发布", "版本/10.4.5/发布"),
    "他住在A座5-302室": ("他/住/在/A座/5/-/302/室", "他/住/在/A座/5-302/室"),
    "比分是2-0": ("比分/是/2/-/0", "比分/是/2-0"),
    "比分是3:1": ("比分/是/3/:/1", "比分/是/3/:/1"),
    "增长了3.5%": ("增长/了/3.5%", "增长/了/3.5%"),
    "南京市长江大桥很长": ("南京市/长江大桥/很长", "南京市/长江大桥/很长"),
}
for text, expected in EXPECTED.items():
    words = "/".join(jieba.cut(text)), "/".join(rjieba.cut(text))
    print(f"{text}: jieba {words[0]}, rjieba {words[1]}")
    assert words == expected, words
PY
