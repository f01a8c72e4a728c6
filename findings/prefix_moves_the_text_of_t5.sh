#!/usr/bin/env bash
# Prefix tuning of T5 in the library adapters changes how far the words of the text are from each other.
#
# Guess, written first: a prefix puts keys and values in front of a text; words of the text see each other at the
# distances that they had, so that among themselves attention is shared out as before.
# Seen with adapters 1.3.0 and transformers 4.57.6 (CPU), a T5 whose queries are zero, so that attention is the relative
# bias alone: of the text's own part of the attention, shares change by up to 0.6. The bias is computed for keys counted
# from the start of the prefix and queries counted from the start of the text: with a prefix of P, each word sees itself P
# to the right, and its neighbours as far off. Row i has the bias of a text without prefix for the distances j + P - i.
# A decoder takes what lies to the right as distance 0. The default length is 30. Nothing warns.
# For pretune: positions begin behind the prefix for keys and queries alike; prefixes of this library are refused.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==4.57.6 adapters==1.3.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import logging
import warnings

import adapters
import torch
import transformers

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
tokens, length = torch.arange(4, 12)[None], 5
torch.manual_seed(0)
model = transformers.T5Model(transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=40))
with torch.no_grad():
    for name, weight in model.named_parameters():
        if name.endswith(".q.weight"):
            weight.zero_()
        if "relative_attention_bias" in name:
            weight.normal_()
adapters.init(model)


@torch.no_grad()
def attention():
    out = model.eval()(input_ids=tokens, decoder_input_ids=tokens, output_attentions=True)
    return {"encoder": out.encoder_attentions[0][0], "decoder": out.decoder_attentions[0][0]}


before = attention()
model.add_adapter("p", config=adapters.PrefixTuningConfig(flat=True, prefix_length=length))
model.set_active_adapters("p")
after = attention()
for side in before:
    text = after[side][..., length:]
    text = text / text.sum(-1, keepdim=True)
    difference = float((text - before[side]).abs().max())
    print(f"{side}: of a text behind a prefix of {length}, the shares among its own words change by up to {difference:.2f}")
    assert difference > 0.2
bias = model.encoder.block[0].layer[0].SelfAttention.compute_bias(8 + length, 8 + length)[0]
text = bias[:, :8, length:].softmax(-1)
found = after["encoder"][..., length:]
assert torch.allclose(text, found / found.sum(-1, keepdim=True), atol=1e-5), "not the bias for distances j + P - i"
print(f"encoder: the shares are those of distances that are {length} too far to the right")
PY
