#!/usr/bin/env bash
# `Average` of an adapter with itself is half of it: the composition divides by the number of adapters once too often.
#
# Guess, written first: the average of equal things is the thing.
# Seen with adapters 1.3.0, transformers 4.57.6, torch 2.13.0: `Average("a", "b")` gives each adapter the weight 1/2, as documented,
# and then takes the mean over both, so that a LoRA acts with half of its strength, and with a quarter where four are averaged.
# `weights=[1, 0]`, which names one adapter alone, is half of it, too. Weights in `[2, 0]` with `normalize_weights=False` are the
# way round. Averaging the *weights* instead (`average_adapter`) is right.
# For pretune: `pretune delta average` joins deltas in the space of the weights, and `tests/interop/test_delta_sums.py`
# compares what it writes with the weighted sum of the changes.
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
from adapters import LoRAConfig
from adapters.composition import Average
from transformers import BertConfig, BertModel

print({name: version(name).partition("+")[0] for name in ("adapters", "transformers", "torch")})
tokens = torch.randint(5, 99, (3, 12), generator=torch.Generator().manual_seed(1))
torch.manual_seed(0)
config = BertConfig(vocab_size=99, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
model = BertModel(config).eval()
adapters.init(model)
for name, alpha in {"a": 8, "b": 8, "weak": 4, "weaker": 2}.items():
    model.add_adapter(name, config=LoRAConfig(r=8, alpha=alpha, dropout=0.0))
for name in ("c", "d"):
    model.add_adapter(name, config=LoRAConfig(r=8, alpha=8, dropout=0.0))
weights = dict(model.named_parameters())
with torch.no_grad():
    for key, weight in weights.items():
        if ".loras.a." in key:
            values = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(key)))
            for name in ("a", "b", "c", "d", "weak", "weaker"):
                weights[key.replace(".loras.a.", f".loras.{name}.")].copy_(values)


def output(setup: object) -> torch.Tensor:
    model.set_active_adapters(setup)
    with torch.no_grad():
        return model.eval()(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state


def far(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max())


alone = {name: output(name) for name in ("a", "b", "weak", "weaker")}
two, four = output(Average("a", "b")), output(Average("a", "b", "c", "d"))
first = output(Average("a", "b", weights=[1.0, 0.0]))
around = output(Average("a", "b", weights=[2.0, 0.0], normalize_weights=False))
print(f"a and its copy b: apart by {far(alone['a'], alone['b']):.2g}")
print(f"average of both: from a {far(two, alone['a']):.3f}, from a LoRA of half the strength {far(two, alone['weak']):.2g}")
print(f"average of four: from a {far(four, alone['a']):.3f}, from a quarter {far(four, alone['weaker']):.2g}")
print(f"weights 1 and 0: from a {far(first, alone['a']):.3f}, from half {far(first, alone['weak']):.2g}")
print(f"weights 2 and 0, not normalized: from a {far(around, alone['a']):.2g}")
model.average_adapter("mean", ["a", "b"])
print(f"average of the weights: from a {far(output('mean'), alone['a']):.2g}")
assert far(alone["a"], alone["b"]) == 0 and far(alone["a"], alone["weak"]) > 0.1
assert far(two, alone["weak"]) < 1e-5 and far(first, alone["weak"]) < 1e-5 and far(four, alone["weaker"]) < 1e-5
assert far(around, alone["a"]) < 1e-5 and far(output("mean"), alone["a"]) < 1e-5
PY
