#!/usr/bin/env bash
# A Qwen2 with a tokenizer of one's own is read with Qwen's rules, unless its files name code that is not there.
#
# Guess, written first: `AutoTokenizer` obeys `"tokenizer_class": "PreTrainedTokenizerFast"` for every model type and
# gives the ids of tokenizer.json; an `auto_map` that names a file which is not in the folder is an error.
# Seen with transformers 5.23.0, tokenizers 0.23.3: for Qwen3 it is so. For Qwen2 the class is overruled without a
# word: Qwen2Tokenizer puts its own normalizer and pre-tokenizer in place of the file's, and the ids are others. With
# an `auto_map` that names a file which is not there, and no trust_remote_code, the class in the file is obeyed again.
# For pretune: the folder of a Qwen2 has such an `auto_map`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import json
import tempfile
from pathlib import Path

import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, trainers

backend = tokenizers.Tokenizer(models.BPE())
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
text = ["in 2024 and 2025 there were 1999 of them"]
alphabet = pre_tokenizers.ByteLevel.alphabet()
backend.train_from_iterator(text * 9, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
expected = backend.encode(text[0]).ids
code = {"AutoTokenizer": [None, "not_there.Tokenizer"]}
for model_type, extra, is_kept in (("qwen3", {}, True), ("qwen2", {}, False), ("qwen2", {"auto_map": code}, True)):
    with tempfile.TemporaryDirectory() as saved:
        backend.save(f"{saved}/tokenizer.json")
        fields = {"tokenizer_class": "PreTrainedTokenizerFast", **extra}
        Path(saved, "tokenizer_config.json").write_text(json.dumps(fields))
        Path(saved, "config.json").write_text(json.dumps({"model_type": model_type}))
        tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
        same = tokenizer(text[0])["input_ids"] == expected
    print(f"transformers {transformers.__version__} {model_type} {extra}: {type(tokenizer).__name__}, same ids: {same}")
    assert same == is_kept, model_type
PY
