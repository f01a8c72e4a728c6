#!/usr/bin/env bash
# A T5 1.1, mT5 or LongT5 that is built anew by transformers begins at a loss of 320 where the logarithm of its vocabulary is 9.
#
# Guess, written first: a new T5 begins near the logarithm of its vocabulary, as BERT, GPT-2 and BART do; the untied head of
# version 1.1 may be larger, for a loss of 20.
# Seen with transformers 5.23.0, torch 2.13.0, 512 wide, 8,000 tokens: the tied model divides what its head reads by the
# root of its width, and begins at 14. The untied one does not divide, but its head is drawn as the embedding is, with a
# deviation of 1: scores differ by 23, and the loss is 320. mT5 begins there tied, too, as its scores are never divided.
# With a head drawn at 1 / root of the width the loss is 9.5. After 150 steps of AdamW on a text to copy (128 wide) the model
# as it comes is behind the one with the smaller head by more than a nat a token.
# For pretune: a new head begins at 1 / root of the width, everything else as theirs (`pretune/models/t5.py`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import math
from importlib.metadata import version

import torch
import transformers as hf

print(f"transformers {version('transformers')}, torch {torch.__version__.partition('+')[0]}")
torch.set_num_threads(1)
VOCABULARY = 8000
LAYERS = {"num_layers": 2, "num_heads": 8, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"}
NAMES = ("T5", "MT5", "LongT5")


def build(name: str, width: int, tied: bool, small: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "d_model": width, "d_kv": width // 8, "d_ff": 2 * width}
    config = getattr(hf, f"{name}Config")(**sizes, **LAYERS, tie_word_embeddings=tied)
    model = getattr(hf, f"{name}ForConditionalGeneration")(config)
    if small:
        torch.nn.init.normal_(model.lm_head.weight, std=width**-0.5)
    return model


def first_loss(model: torch.nn.Module) -> float:
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randint(3, VOCABULARY, (2, 8, 30), generator=generator)
    with torch.no_grad():
        return float(model.eval()(input_ids=source, labels=target).loss)


def last_loss(model: torch.nn.Module) -> float:
    """The mean of the last ten of 150 steps of learning to copy eight of a hundred tokens."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(2)
    losses = []
    for _ in range(150):
        text = torch.randint(3, 103, (16, 8), generator=generator)
        loss = model(input_ids=text, labels=text).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return sum(losses[-10:]) / 10


print(f"logarithm of the vocabulary: {math.log(VOCABULARY):.1f}")
for name in NAMES:
    tied, untied, small = (first_loss(build(name, 512, *each)) for each in ((True,), (False,), (False, True)))
    print(f"{name}: first loss tied {tied:.1f}, untied {untied:.1f}, untied with a head of 1 / root of the width {small:.1f}")
    assert (tied > 250) if name == "MT5" else (tied < 16)
    assert untied > 250
    assert small < 11
as_it_comes, small = last_loss(build("T5", 128, False)), last_loss(build("T5", 128, False, small=True))
print(f"T5, 128 wide, after 150 steps: as it comes {as_it_comes:.2f}, with the smaller head {small:.2f}")
assert as_it_comes > small + 1
PY
