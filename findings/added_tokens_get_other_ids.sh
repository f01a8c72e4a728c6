#!/usr/bin/env bash
# The ids that added_tokens.json and added_tokens_decoder give to tokens are not used.
#
# Guess, written first: a token of added_tokens.json has the id that stands there, as the rows of the model belong to it; an
# id that cannot be had is an error.
# Seen with transformers 5.23.0, tokenizers 0.23.3: only the order of the ids counts. A token that leaves a gap (id 8 behind
# a vocabulary of 7, as after padding the embedding) gets the next free id, 7. "Free" is counted by the size of the
# vocabulary: where vocab.txt holds a line twice, so that it has a hole, the new token gets the id of an old one, and that
# id is decoded as the new token. No warning in either case.
# For pretune: an added token whose stated id is not the one that it would have is refused, with file, token and both ids;
# so are two tokens of one id.
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

import transformers

special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
for words, stated, expected in ((["the", "dog"], 8, 7), (["the", "dog", "the"], 8, 7)):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.txt").write_text("\n".join([*special, *words]) + "\n")
        (folder / "config.json").write_text('{"model_type": "bert"}')
        (folder / "added_tokens.json").write_text(json.dumps({"<drug>": stated}))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ids = tokenizer.encode("the dog <drug>", add_special_tokens=False)
        print(f"transformers {transformers.__version__}: <drug> is to be {stated}: 'the dog <drug>' is {ids}, {expected} is "
              f"{tokenizer.decode([expected])!r}")
        assert ids[-1] == expected != stated
        assert (ids[0] == ids[-1]) == (len(words) == 3)
PY
