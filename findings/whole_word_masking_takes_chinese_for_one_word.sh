#!/usr/bin/env bash
# Whole-word masking of transformers masks a Chinese text from its first character to its last, or not at all.
#
# Guess, written first: `DataCollatorForLanguageModeling(whole_word_mask=True)` masks words of the tokenizer: what its
# pre-tokenizer takes apart, so in BERT's each Chinese character and each mark. 15 % of the tokens of every text are hidden.
# Seen with transformers 5.23.0, tokenizers 0.23.3: a word begins where a token's offset is not the end of the token before.
# So words are what stands between blanks: of a Chinese text of 72 tokens none or all are masked, and in English a mark is
# hidden with the word before it (`mat,`), which `word_ids()` tells apart. Over many texts the rate is right, so that it looks
# right; of the texts that count, the model has to write every token from nothing but [CLS] and [SEP]. No warning.
# For pretune: `prepare --segmenter` finds the words, and `objective.mlm.units = "word"` masks those.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
import statistics
from pathlib import Path

import tokenizers
import torch
import transformers

CHINESE = "今天天气很好，我们去公园散步，然后回家喝茶看书。" * 3
ENGLISH = "the cat sat on the mat, the cat sat. " * 8
CHARACTERS = sorted(set(CHINESE))
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
Path("vocab.txt").write_text("\n".join([*SPECIAL, *CHARACTERS, *"the cat sat on mat , .".split()]) + "\n", "utf-8")
tokenizer = transformers.BertTokenizer.from_pretrained(".")
collate = transformers.DataCollatorForLanguageModeling(tokenizer, whole_word_mask=True, mlm_probability=0.15, seed=0)


def masked(text: str) -> tuple[list[int], list[torch.Tensor], tokenizers.Encoding]:
    """How many tokens each of 300 draws masks, and which."""
    encoded = tokenizer(text, return_special_tokens_mask=True, return_offsets_mapping=True)
    draws = [collate([dict(encoded)])["labels"][0] != -100 for _ in range(300)]
    return [int(draw.sum()) for draw in draws], draws, encoded.encodings[0]


print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
counts, _, encoding = masked(CHINESE)
words = sum(mask == 0 for mask in encoding.special_tokens_mask)
assert len(set(encoding.word_ids) - {None}) == words, "each Chinese character is a word to the tokenizer"
print(f"Chinese, {words} tokens: {sorted(set(counts))} of them masked; on average {statistics.mean(counts) / words:.1%}")
assert set(counts) == {0, words}
assert 0.08 < statistics.mean(counts) / words < 0.25

counts, draws, encoding = masked(ENGLISH)
words = sum(mask == 0 for mask in encoding.special_tokens_mask)
print(f"English, {words} tokens: {min(counts)} to {max(counts)} of them masked; on average {statistics.mean(counts) / words:.1%}")
assert 0 < statistics.median(counts) < words / 2
pairs = [n for n in range(1, len(encoding.tokens)) if encoding.tokens[n] in ",."]
assert all(encoding.word_ids[n] != encoding.word_ids[n - 1] for n in pairs), "the tokenizer tells marks from words"
assert all(draw[n] == draw[n - 1] for draw in draws for n in pairs), "the collator never does"
print("a mark is masked when the word before it is, and only then")
PY
