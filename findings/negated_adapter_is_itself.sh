#!/usr/bin/env bash
# AdapterHub's average of one adapter with weight -1 is that adapter, and its documented table of weights cannot be given.
#
# Guess, written first: `average_adapter("forget", ["a"], weights=[-1])` gives the adapter that takes away what `a` adds, as
# arithmetic of tasks wants it; a table `{"a": 0.9, "b": 0.1}` gives nine parts of one and one of the other, as the
# documentation of its argument says.
# Seen with adapters 1.3.0, transformers 4.57.6, torch 2.13.0: weights are divided by their sum by default, so -1 becomes 1
# and the negated adapter computes what the adapter computes, without a word; 1 and -1 end in a ZeroDivisionError, and a table in
# a KeyError. With normalize_weights=False the negated adapter points the other way, and a list gives the shares.
# For pretune: `pretune delta subtract` and `add` take weights as they are, and `average` refuses one below 0
# (`pretune/interop/delta_sums.py`); it divided by the sum, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==4.57.6 adapters==1.3.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

import adapters
import torch
from transformers import BertConfig, BertModel

print(f"adapters {version('adapters')}, transformers {version('transformers')}, torch {torch.__version__.partition('+')[0]}")
torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
model = BertModel(BertConfig(vocab_size=64, **shape)).eval()
adapters.init(model)
for name in ("a", "b"):
    model.add_adapter(name, config=adapters.LoRAConfig(r=4))
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1)
tokens = torch.arange(10)[None]


def change(name: str) -> torch.Tensor:
    """What an adapter adds to the hidden states."""
    with torch.no_grad():
        model.set_active_adapters(None)
        without = model(tokens).last_hidden_state
        model.set_active_adapters(name)
        return model(tokens).last_hidden_state - without


def matrices(name: str) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for key, p in model.named_parameters() if f".loras.{name}." in key])


model.average_adapter("negated", ["a"], weights=[-1.0], combine_strategy="lora_linear_only_negate_b")
model.average_adapter(
    "negative", ["a"], weights=[-1.0], combine_strategy="lora_linear_only_negate_b", normalize_weights=False
)
own, negated, negative = (change(name) for name in ("a", "negated", "negative"))
gap, along = float((negated - own).abs().max()), float((own * negative).sum() / (own.norm() * negative.norm()))
print(f"weight -1: differs from the adapter by {gap:.1g}; without normalisation its direction is {along:.2f} of the adapter's")
assert gap == 0.0
assert along < -0.9
try:
    model.average_adapter("difference", ["a", "b"], weights=[1.0, -1.0])
    raise SystemExit("weights 1 and -1 were taken")
except ZeroDivisionError as error:
    print(f"weights 1 and -1: ZeroDivisionError: {error}")
try:
    model.average_adapter("table", {"a": 0.9, "b": 0.1})
    raise SystemExit("a table was taken")
except KeyError as error:
    print(f"weights 0.9 and 0.1 as a table: KeyError: {error}")
model.average_adapter("list", ["a", "b"], weights=[0.9, 0.1])
assert torch.allclose(matrices("list"), 0.9 * matrices("a") + 0.1 * matrices("b"), atol=1e-6)
print("weights 0.9 and 0.1 as a list: 0.9 of the first")
PY
