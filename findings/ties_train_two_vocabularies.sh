#!/usr/bin/env bash
# subword-nmt and tokenizers train other merges from the same text, so that words are cut apart otherwise from the start.
#
# Guess, written first: byte-pair encoding with `</w>` at the end of words is one algorithm: the same text and the same
# number of merges give the same pieces, in subword-nmt, where it comes from, as in tokenizers.
# Seen with subword-nmt 0.3.8, tokenizers 0.23.3, 40 merges of a text of 147 words: the most frequent pair is merged in
# both; of pairs that are equally frequent subword-nmt takes the last in the alphabet, tokenizers the one with the
# smallest ids, that is the first. Small texts, and the rare end of large ones, are full of ties, and a merge changes what
# comes later: here the first difference is within the first ten, 17 of 40 merges are in one list alone, and a third of
# the words are cut otherwise. Each is the same when it is run again. Applied from one list of merges, both cut alike. So
# a model cannot be trained on with a vocabulary that is "learned again" by the other, and a comparison of tokenizers
# compares ties.
# For pretune: vocabularies are trained by tokenizers, and a model goes with the file that it was trained with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet subword-nmt==0.3.8 tokenizers==0.23.3 setuptools==80.9.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
import codecs
import contextlib
import io
import json
import re
from importlib.metadata import version

from subword_nmt.apply_bpe import BPE
from subword_nmt.learn_bpe import learn_bpe
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

with contextlib.redirect_stdout(io.StringIO()):
    import this  # the aphorisms of Python: a text that every machine has
TEXT = " ".join(re.findall("[a-z]+", codecs.decode(this.s, "rot13").lower()))
MERGES = 40
print({name: version(name) for name in ("subword-nmt", "tokenizers")}, len(TEXT.split()), "words")


def of_subword_nmt() -> list[tuple[str, str]]:
    out = io.StringIO()
    learn_bpe(io.StringIO(TEXT + "\n"), out, MERGES, min_frequency=2)
    return [tuple(line.split()) for line in out.getvalue().splitlines()[1:]]


def of_tokenizers() -> list[tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=1000, end_of_word_suffix="</w>", show_progress=False, min_frequency=2)
    tokenizer.train_from_iterator([TEXT], trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]][:MERGES]


def cut_by_subword_nmt(merges: list[tuple[str, str]]) -> list[list[str]]:
    lines = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)
    apply = BPE(io.StringIO(lines))
    return [[piece.removesuffix("@@") for piece in apply.segment(word).split()] for word in sorted(set(TEXT.split()))]


def cut_by_tokenizers(merges: list[tuple[str, str]]) -> list[list[str]]:
    pieces = sorted(set(TEXT.replace(" ", ""))) + [f"{letter}</w>" for letter in sorted(set(TEXT.replace(" ", "")))]
    pieces += [a + b for a, b in merges if a + b not in pieces]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return [[piece.removesuffix("</w>") for piece in tokenizer.encode(word).tokens] for word in sorted(set(TEXT.split()))]


one, other = of_subword_nmt(), of_tokenizers()
assert one == of_subword_nmt() and other == of_tokenizers() and len(one) == len(other) == MERGES
first = next(n for n in range(MERGES) if one[n] != other[n])
alone = len(set(one) - set(other))
left, right = cut_by_subword_nmt(one), cut_by_subword_nmt(other)
apart = sum(a != b for a, b in zip(left, right, strict=True))
print(f"first difference: merge {first}, {one[first]} and {other[first]}; {alone} of {MERGES} in one list alone; "
      f"{apart} of {len(left)} words cut otherwise")  # fmt: skip
assert first < 10 and alone > MERGES / 10 and apart > len(left) / 10
assert right == cut_by_tokenizers(other), "with one list of merges both cut alike"
PY
