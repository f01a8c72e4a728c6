#!/usr/bin/env bash
# The ONNX graph that onnxruntime-extensions makes of an uncased BERT tokenizer keeps accents: "café" has other ids.
#
# Guess, written first: `gen_processing_models(tokenizer)` gives a graph with the ids of that tokenizer, or refuses what
# it cannot do, as it is put before a model so that nobody needs the tokenizer any more.
# Seen with onnxruntime-extensions 0.15.2, onnxruntime 1.32.0, transformers 5.23.0: `strip_accents` is None in the files
# of uncased BERTs, which means "as lower-casing does", yes; the graph takes it for no, so that "café", "naïve" and
# "Zürich" are other pieces or [UNK]. With `strip_accents=True` written down they agree. A word of which only the
# beginning is known is [UNK] in BERT; the graph keeps the beginning and puts [UNK] behind it, which moves everything
# after it. English and Chinese text without these agrees, so that a test of a few sentences passes. No warning.
# For pretune: its graphs begin at token ids, and tokenizer.json stands beside them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime-extensions==0.15.2 onnxruntime==1.32.0 onnx==1.23.2 transformers==5.23.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_extensions
import transformers

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat on mat . , caf ##e ##é cafe naive zurich in hello world un ##aff ##able t 北 京 你 好".split()
Path("vocab.txt").write_text("\n".join(WORDS) + "\n")
print({name: version(name) for name in ("onnxruntime-extensions", "onnxruntime", "transformers")})


def compare(texts: dict[str, bool], **settings: object) -> None:
    """Prints the tokens of both for each text, and checks whether they are equal as expected."""
    tokenizer = transformers.BertTokenizer.from_pretrained(".", **settings)
    graph, _ = onnxruntime_extensions.gen_processing_models(tokenizer, pre_kwargs={})
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for text, equal in texts.items():
        outputs = dict(zip(names, session.run(None, {session.get_inputs()[0].name: np.array([text])}), strict=True))
        ids, expected = np.ravel(outputs["input_ids"]).tolist(), tokenizer(text)["input_ids"]
        sides = [" ".join(tokenizer.convert_ids_to_tokens(side)) for side in (ids, expected)]
        print(f"{settings} {text!r}: graph {sides[0]}; tokenizer {sides[1]}")
        assert (ids == expected) is equal


compare({"The cat sat on the mat.": True, "unaffable, hello": True, "北京你好": True, "xyz": True, "the cafe": True,
         "the Café": False, "naïve": False, "in Zürich": False, "two cat": False})  # fmt: skip
compare({"the Café": True, "naïve": True, "in Zürich": True}, strip_accents=True)
PY
