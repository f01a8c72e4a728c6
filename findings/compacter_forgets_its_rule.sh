#!/usr/bin/env bash
# A Compacter adapter that `adapters` saved has lost the matrices that all its layers share, and loads almost without effect.
#
# Guess, written first: what a method learns is in its file.
# Seen with adapters 1.3.0, transformers 4.57.6, torch 2.13.0, the configurations `compacter` and `compacter++`: the file holds the
# factors of every layer, and not the rule that combines them, which all layers share and which learns too (`shared_phm_rule` is
# True by default). Loading draws it anew, so near zero that of the adapters little more than their biases is left, and says
# nothing: the loaded model is a third (`compacter`) to nine tenths (`compacter++`) of what tuning moved away from the tuned one.
# With `shared_phm_rule=False` each layer has a rule of its own, which is saved.
# For pretune: a delta holds whatever learned, wherever it stands in the model; `tests/interop/test_deltas.py` compares a
# loaded one with the run that wrote it.
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
from adapters import CompacterConfig, CompacterPlusPlusConfig
from transformers import BertConfig, BertModel

print({name: version(name).partition("+")[0] for name in ("adapters", "transformers", "torch")})
tokens = torch.randint(5, 99, (3, 12), generator=torch.Generator().manual_seed(1))
wanted = torch.randn(3, 12, 256, generator=torch.Generator().manual_seed(2))


def base(seed: int) -> BertModel:
    """The same base each time; what is drawn after it follows the seed."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=99, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)
    model = BertModel(config).eval()
    adapters.init(model)
    torch.manual_seed(seed)
    return model


def output(model: BertModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state


def measure(name: str, config: CompacterConfig) -> dict[str, object]:
    model, untouched = base(1), output(base(1))
    model.add_adapter("own", config=config)
    model.train_adapter("own")
    learns = {key: p for key, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(learns.values(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        found = model(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        (found - wanted).square().mean().backward()
        optimizer.step()
    tuned = output(model)
    model.save_adapter(name, "own")
    held = torch.load(f"{name}/pytorch_adapter.bin")
    apart = []
    for seed in (2, 3):
        other = base(seed)
        other.load_adapter(name, set_active=True)
        apart.append(float((output(other) - tuned).norm() / (tuned - untouched).norm()))
    return {"not in the file": sorted(set(learns) - set(held)), "apart, of what tuning moved": apart}


found = {
    "compacter": measure("compacter", CompacterConfig()),
    "compacter++": measure("compacter++", CompacterPlusPlusConfig()),
    "a rule a layer": measure("own", CompacterConfig(shared_phm_rule=False)),
}
for name, values in found.items():
    print(name, values)
for name in ("compacter", "compacter++"):
    assert found[name]["not in the file"] == ["shared_parameters.own.phm_rule"]
    one, two = found[name]["apart, of what tuning moved"]
    assert one > 0.3 and two > 0.3 and one != two
assert found["a rule a layer"] == {"not in the file": [], "apart, of what tuning moved": [0.0, 0.0]}
PY
