#!/usr/bin/env bash
# lm-eval scores another text than the one that was asked for where a token reaches over the border of context and choice.
#
# Guess, written first: `loglikelihood(("http:", "//example"))` is the log-likelihood of the tokens of "http://example" that
# belong to "//example"; where a token stands on both sides of the border it is scored with the choice, or the pair is refused.
# Seen with lm-eval 0.4.13: `_encode_pair` encodes context and whole, and takes what comes after as many tokens as the context
# has *alone*. With byte-level BPE (GPT-2, Llama 3, SmolLM2 ...) "http:" has one token more than its part of "http://...", in
# which "://" is one token. So "//" is dropped: the model reads and scores "http:example", without a word. Two choices that
# differ in what is dropped alone get the same log-likelihood, bit for bit.
# For pretune: numbers have to be lm-eval's, so texts are cut in the same place; `score_choices` says how many choices it
# concerns, and to end the context before the token.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 lm-eval==0.4.13
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder/model" 2>"$folder/log" <<'PY' || { cat "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

import tokenizers
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import decoders, models, pre_tokenizers, trainers

backend = tokenizers.Tokenizer(models.BPE())
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # GPT-2's
backend.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=320,
    special_tokens=["<|endoftext|>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
)
backend.train_from_iterator(["http://example http://example ftp://example"] * 9, trainer)
end = "<|endoftext|>"
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end)
torch.manual_seed(0)
config = transformers.GPT2Config(
    vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
)
transformers.GPT2LMHeadModel(config).save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
model = HFLM(pretrained=sys.argv[1], device="cpu")

print(f"lm-eval {version('lm-eval')}, transformers {transformers.__version__}")
pairs = [("http:", "//example"), ("http:", "example")]
for context, choice in pairs:
    before, after = model._encode_pair(context, choice)
    print(f"{context!r} + {choice!r}: scored is {tokenizer.decode(before)!r} + {tokenizer.decode(after)!r}")
before, after = model._encode_pair(*pairs[0])
assert tokenizer.decode(before + after) == "http:example", "the two slashes are gone"
scores = model.loglikelihood([Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)], disable_tqdm=True)
print("log-likelihoods:", scores)
assert scores[0] == scores[1], "the same for both texts"
PY
