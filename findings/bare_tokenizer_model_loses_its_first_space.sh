#!/usr/bin/env bash
# A tokenizer.model beside a Llama's config.json has other ids than the sentencepiece library unless its class is named.
#
# Guess, written first: a folder with config.json (`model_type` "llama") and tokenizer.model is read by LlamaTokenizer, and
# its ids are those of `SentencePieceProcessor.encode`.
# Seen with transformers 5.23.0, sentencepiece 0.2.3: "llama" has no class of its own in AutoTokenizer, and the generic one
# reads the pieces without the space that the model file puts before a text (`add_dummy_prefix`): "hello" begins with the
# piece "he" and not "▁he". With `"tokenizer_class": "LlamaTokenizer"` the ids are those of the library. No warning.
# For pretune: the same ids as `transformers`, and a note that says so and what to name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 sentencepiece==0.2.3 protobuf==7.36.2
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import json
from pathlib import Path

import sentencepiece
import transformers

folder = Path("model")
folder.mkdir()
Path("text.txt").write_text("\n".join(["the quick brown fox jumps over the lazy dog", "hello world"] * 50))
sentencepiece.SentencePieceTrainer.train(
    input="text.txt", model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=330, byte_fallback=True,
    hard_vocab_limit=False, minloglevel=2,
)
library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode("hello", out_type=str)
for fields in ({}, {"tokenizer_class": "LlamaTokenizer"}):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **fields}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pieces = tokenizer.tokenize("hello")
    print(f"transformers {transformers.__version__} {fields} {type(tokenizer).__name__}: {pieces}; the library: {library}")
    assert (pieces == library) == bool(fields)
PY
