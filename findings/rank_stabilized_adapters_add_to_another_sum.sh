#!/usr/bin/env bash
# Adapters with rank-stabilised scale add up to sqrt(rank) times their sum, also by "cat", which is exact otherwise.
#
# Guess, written first: `add_weighted_adapter(["a", "b"], [1, 1], combination_type="cat")` changes each matrix by the sum of
# what "a" and "b" change, with `use_rslora=True` as without; "svd" by the nearest of lower rank.
# Seen with peft 0.21.2: the new adapter has alpha = rank, so that its scale is 1, and keeps `use_rslora`, with which alpha /
# sqrt(rank) is sqrt(rank). So two adapters of rank 8 give by "cat" 4 times their sum (rank 16), and by "svd" 2.8 times what
# they would; one adapter alone with the weight 1 does not come back either. Nothing warns, and a saved folder says the same.
# Without `use_rslora` "cat" is exact.
# For pretune: `pretune delta add` puts the scale of each into its factors and the new scale to 1, whatever made it; a test
# holds rank-stabilised ones to that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
import peft
import torch
from transformers import BertConfig, BertModel

SHAPE = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128, "vocab_size": 100}
print(f"peft {peft.__version__}, torch {torch.__version__}")


def times(names: list[str], kind: str, stabilized: bool) -> tuple[float, float]:
    """How many times what is wanted the new adapter changes a matrix, and how far it is from that multiple."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["query"], use_rslora=stabilized)
    model = peft.get_peft_model(BertModel(BertConfig(**SHAPE)), config, "a")
    model.add_adapter("b", config)
    query = model.base_model.model.encoder.layer[0].attention.self.query
    with torch.no_grad():
        for name in "ab":
            query.lora_B[name].weight.normal_(0, 0.02)
        wanted = sum(query.get_delta_weight(name) for name in names)
        model.add_weighted_adapter(names, [1.0] * len(names), "new", combination_type=kind)
        got = query.get_delta_weight("new")
        multiple = float((got * wanted).sum() / wanted.square().sum())
        return multiple, float((got - multiple * wanted).norm() / (multiple * wanted).norm())


for names, kind, expected in ((["a"], "cat", 8**0.5), (["a", "b"], "cat", 4.0), (["a"], "svd", 8**0.5)):
    plain, rest = times(names, kind, stabilized=False)
    assert abs(plain - 1) < 1e-3 and rest < 1e-3
    stabilized, rest = times(names, kind, stabilized=True)
    print(f"{' + '.join(names)} by {kind}: {plain:.2f} times the sum; with use_rslora {stabilized:.2f} times")
    assert abs(stabilized - expected) < 1e-2 and rest < 1e-3
PY
