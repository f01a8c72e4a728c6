#!/usr/bin/env bash
# With a gate, as UniPELT has, an adapter's answer for a text depends on how much padding stands behind it.
#
# Guess, written first: what the attention mask leaves out changes no answer.
# Seen with adapters 1.3.0, transformers 4.57.6, torch 2.13.0: the gate of bottleneck adapters and LoRA (`use_gating=True`, and UniPELT by
# default) is the mean of a sigmoid over all positions of the row, those of padding included, whatever the mask. So the same text has other
# hidden states beside a longer one; in training each batch mixes another gate into the same text. Without a gate the same adapters
# agree to 1e-6. Scoring texts one by one gives other labels than in batches, where gates have learned to differ.
# For pretune: its batches are ragged (`pretune/batch.py`) and have no padding that something could read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==4.57.6 adapters==1.3.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

import adapters
import torch
from adapters import LoRAConfig, SeqBnConfig
from transformers import BertConfig, BertModel

print({name: version(name).partition("+")[0] for name in ("adapters", "transformers", "torch")})
generator = torch.Generator().manual_seed(1)
short = torch.randint(5, 99, (3, 8), generator=generator)
padded = torch.cat([short, torch.zeros(3, 24, dtype=torch.long)], dim=1)
mask = (padded != 0).long()


def moved_by_padding(config: object) -> tuple[float, float]:
    """How far padding moves the hidden states of real tokens, and how far the adapter moves them at all."""
    torch.manual_seed(0)
    body = BertConfig(vocab_size=99, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    model = BertModel(body).eval()
    adapters.init(model)
    with torch.no_grad():
        untouched = model(short, attention_mask=torch.ones_like(short)).last_hidden_state
        model.add_adapter("own", config=config)
        model.set_active_adapters("own")
        for name, weight in model.named_parameters():
            if ".own." in name:  # as after some training
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
        model.eval()
        alone = model(short, attention_mask=torch.ones_like(short)).last_hidden_state
        beside = model(padded, attention_mask=mask).last_hidden_state[:, :8]
    return float((beside - alone).abs().max()), float((alone - untouched).abs().max())


configs = {
    "bottleneck": SeqBnConfig(),
    "bottleneck, gated": SeqBnConfig(use_gating=True),
    "LoRA": LoRAConfig(),
    "LoRA, gated": LoRAConfig(use_gating=True),
    "UniPELT": "unipelt",
}
found = {name: moved_by_padding(config) for name, config in configs.items()}
for name, (padding, adapter) in found.items():
    print(f"{name}: padding moves hidden states by {padding:.2g}, the adapter by {adapter:.2g}")
assert all(found[name][0] < 1e-5 for name in ("bottleneck", "LoRA"))
assert all(found[name][0] > 1e-3 for name in ("bottleneck, gated", "LoRA, gated", "UniPELT"))
PY
