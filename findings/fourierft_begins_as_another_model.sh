#!/usr/bin/env bash
# A model that peft is about to tune by FourierFT is another model before the first step, by default.
#
# Guess, written first: every method of peft that trains little begins as the model that it is given, as LoRA does with a
# matrix of zeros; what the fields are called where one does not, its defaults do.
# Seen with peft 0.21.2, torch 2.13.0, with the defaults of each: LoRA, LoHa, LoKr, OFT, IA3 and VeRA change no bit. FourierFT draws its
# spectrum from a normal distribution (`init_weights=False` is the default, and means that) times 150: on queries and values of
# width 768, which begin at a deviation of 0.02, what it adds has a deviation of 0.0058, a fourth of the weights'. VB-LoRA
# begins elsewhere as well, by a fortieth of that. A loss in the first step that is far above the base's is how it shows;
# no warning. `init_weights=True` begins as the base.
# For pretune: what it tunes begins as the untouched model, bit for bit (`tests/tune`), but for prefixes and prompts, and
# adapters of this type are refused by name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

import peft
import torch
from torch import nn

print({name: version(name).partition("+")[0] for name in ("peft", "torch")})


class Block(nn.Module):
    """Queries and values of the width of BERT base, drawn as it draws them."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(768, 768), nn.Linear(768, 768)
        for layer in (self.query, self.value):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value(torch.tanh(self.query(x)))


def change(config: peft.PeftConfig) -> tuple[float, float]:
    """How far the output is from the base's, over its size, before any step; and the deviation of what is added."""
    torch.manual_seed(0)
    base, x = Block(), torch.randn(16, 768)
    before, weight = base(x).detach(), base.query.weight.detach().clone()
    tuned = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        far = float((tuned(x) - before).norm() / before.norm())
    return far, float((tuned.merge_and_unload().query.weight - weight).std())


places = {"target_modules": ["query", "value"]}
configs = {
    "LoRA": peft.LoraConfig(**places),
    "LoHa": peft.LoHaConfig(**places),
    "LoKr": peft.LoKrConfig(**places),
    "OFT": peft.OFTConfig(**places),
    "IA3": peft.IA3Config(**places, feedforward_modules=[]),
    "VeRA": peft.VeraConfig(**places),
    "VB-LoRA": peft.VBLoRAConfig(**places),
    "FourierFT": peft.FourierFTConfig(**places),
    "FourierFT, init_weights=True": peft.FourierFTConfig(**places, init_weights=True),
}
found = {name: change(config) for name, config in configs.items()}
for name, (far, added) in found.items():
    print(f"{name}: output moved by {far:.2%}, weights by {added:.2g}")
assert all(found[name][0] == 0 for name in ("LoRA", "LoHa", "LoKr", "OFT", "IA3", "VeRA", "FourierFT, init_weights=True"))
assert found["FourierFT"][0] > 0.2 and found["FourierFT"][1] > 0.2 * 0.02
assert 0 < found["VB-LoRA"][0] < 0.1
PY
