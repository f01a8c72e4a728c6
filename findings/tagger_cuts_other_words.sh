#!/usr/bin/env bash
# jieba's tagger cuts sentences into other words than jieba: a part of speech belongs to a word that `cut` does not know.
#
# Guess, written first: `jieba.posseg.cut` gives the words of `jieba.cut` with a part of speech each, so that filters by
# it (`analyse.textrank`, `extract_tags(allowPOS=...)`), tags for words of an index and masks of whole words agree.
# Seen with jieba 0.42.1 beside rjieba 0.2.2: what the dictionary does not hold is found by another model in each: `cut`
# knows the place in the word alone, the tagger place and part of speech together. Of the 15 sentences here, 4 are cut
# apart otherwise, of the examples in jieba's own documentation too: 杭研 becomes 杭 and 研, 后 and 在 become 后在. With
# `HMM=False` both give the same. rjieba, which RoFormer's tokenizer uses, cuts as `cut` does. Joined, the words are the
# sentence in all. No warning.
# For pretune: words come from `cut` alone, in the index (`search/tokenizations/jieba.py`) and in `prepare --segmenter`
# alike.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jieba==0.42.1 rjieba==0.2.2 setuptools==80.9.0
cd "$folder"
TMPDIR="$folder" "$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import jieba
import jieba.posseg
import rjieba

jieba.setLogLevel(60)
SENTENCES = [
    "他来到了网易杭研大厦", "小明硕士毕业于中国科学院计算所，后在日本京都大学深造", "我们中出了一个叛徒", "他说的确实在理",
    "今天天气很好，我们去公园散步。", "李小福是创新办主任也是云计算方面的专家", "王小明在北京大学读书", "南京市长江大桥",
    "结婚的和尚未结婚的", "乒乓球拍卖完了", "永和服装饰品有限公司", "研究生命起源", "欧阳娜娜演唱会门票",
    "工信处女干事每月经过下属科室都要亲口交代24口交换机等技术性器件的安装工作", "我来到北京清华大学",
]  # fmt: skip
print({name: version(name) for name in ("jieba", "rjieba")})
apart = []
for sentence in SENTENCES:
    words, tagged = jieba.lcut(sentence), [pair.word for pair in jieba.posseg.cut(sentence)]
    assert rjieba.cut(sentence) == words
    assert "".join(words) == "".join(tagged) == sentence
    assert jieba.lcut(sentence, HMM=False) == [pair.word for pair in jieba.posseg.cut(sentence, HMM=False)]
    if words != tagged:
        apart.append(sentence)
        print("cut:", " ".join(words), "- tagger:", " ".join(tagged))
assert apart == SENTENCES[:4]
PY
