#!/usr/bin/env bash
# A pooling that leaves out the prompt leaves out the first word of the text too, where the tokenizer joins a blank to a word.
#
# Guess, written first: with `include_prompt=False` the vector of "query: " + "hello world" is the mean of the rows of "hello
# world", whatever the tokenizer; a text of one word keeps its row.
# Seen with sentence-transformers 6.2.0, transformers 5.23.0: the prompt is tokenized alone and its tokens are counted. With
# byte-level BPE (RoBERTa, ModernBERT, GPT-2, Llama 3, Qwen) "query: " alone ends with a blank that is a token of its own; in
# the whole text that blank belongs to " hello". One token too many is left out: the first of the text. Of "query: " + "cat"
# the row of the end token is all that counts, and without such a token the vector is one of zeros. With WordPiece, or with a
# prompt that ends before the blank, it is as guessed. No warning.
# For pretune: the same vectors; `embed` says so where the prompt's tokens are not those that the text begins with, and refuses
# texts of which nothing is left.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
from pathlib import Path

import numpy as np
import sentence_transformers
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

CORPUS = ["query: hello world", "query: the cat sat", "cat hello the world sat"] * 9
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", ":", "hello", "world", "the", "cat", "sat"]


def byte_level(ends: bool) -> transformers.PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    if ends:  # as RoBERTa
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def word_piece() -> transformers.PreTrainedTokenizerBase:
    Path("vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    return transformers.BertTokenizer.from_pretrained(".")


def pooled(tokenizer: transformers.PreTrainedTokenizerBase, prompt: str, text: str) -> list[str] | None:
    """The tokens whose mean the vector is; None for a vector of zeros."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, initializer_range=0.2
    )
    bert = transformers.BertModel(config).eval()
    bert.save_pretrained("model")
    tokenizer.save_pretrained("model")
    model = SentenceTransformer(modules=[Transformer("model"), Pooling(32, "mean", include_prompt=False)])
    vector = model.encode([text], prompt=prompt)[0]
    if not vector.any():
        return None
    ids = tokenizer(prompt + text)["input_ids"]
    with torch.inference_mode():
        rows = bert(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return next(
        tokenizer.convert_ids_to_tokens(ids[n:]) for n in range(len(ids)) if np.allclose(rows[n:].mean(0), vector, atol=1e-5)
    )


print(f"sentence-transformers {sentence_transformers.__version__}, transformers {transformers.__version__}")
transformers.logging.set_verbosity_error()
cases = [
    ("WordPiece", word_piece(), "query: ", "hello world", ["hello", "world", "[SEP]"]),
    ("byte-level BPE with ends", byte_level(True), "query:", " hello world", ["Ġhello", "Ġworld", "</s>"]),
    ("byte-level BPE with ends", byte_level(True), "query: ", "hello world", ["Ġworld", "</s>"]),
    ("byte-level BPE with ends", byte_level(True), "query: ", "cat", ["</s>"]),
    ("byte-level BPE", byte_level(False), "query: ", "hello world", ["Ġworld"]),
    ("byte-level BPE", byte_level(False), "query: ", "cat", None),
]
for name, tokenizer, prompt, text, expected in cases:
    found = pooled(tokenizer, prompt, text)
    print(f"{name}, {prompt!r} + {text!r}: the mean of {found if found else 'nothing, a vector of zeros'}")
    assert found == expected, (found, expected)
PY
