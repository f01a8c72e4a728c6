#!/usr/bin/env bash
# VeRA of the library adapters, saved from a model without a head, comes back with other random matrices.
#
# Guess, written first: VeRA's two matrices are random, frozen, and the same for all layers. A library that saves an
# adapter keeps them, or the seed that they were drawn with; loaded into a new process the adapter computes what it did.
# Seen with adapters 1.3.0 and transformers 4.57.6 (CPU): from BertForSequenceClassification they are saved, since their
# names begin with `bert.`; from BertModel they are not: what is saved is found by `.shared_parameters.NAME.`, with a point
# before it, which names of a bare model do not begin with. `load_adapter` draws new ones and lists no missing keys. Outputs
# then differ by as much as the adapter had moved them. `init_weights_seed` is None unless it is given. Nothing warns.
# For pretune: VeRA is refused by name.
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
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 40}
tokens = torch.arange(4, 12)[None]


@torch.no_grad()
def answers(model):
    return model.eval()(input_ids=tokens, output_hidden_states=True).hidden_states[-1]


for name, is_lost in (("BertForSequenceClassification", False), ("BertModel", True)):
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    kind(transformers.BertConfig(**SIZES)).save_pretrained(name)
    model = kind.from_pretrained(name)
    adapters.init(model)
    plain = answers(model)
    model.add_adapter("a", config="vera")
    model.train_adapter("a")
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if path.endswith(("vera_D", "vera_B")):
                weight.add_(torch.diag(0.5 * torch.randn(len(weight))))
    trained = answers(model)
    model.save_adapter(f"{name}-adapter", "a")
    other = kind.from_pretrained(name)
    adapters.init(other)
    found = {}
    other.load_adapter(f"{name}-adapter", set_active=True, loading_info=found)
    moved, lost = float((trained - plain).abs().max()), float((answers(other) - trained).abs().max())
    missing = [key for key in found["missing_keys"] if ".a." in key]
    saved = [key for key in torch.load(f"{name}-adapter/pytorch_adapter.bin") if "shared" in key]
    print(f"{name}: the adapter moves outputs by {moved:.3f}; loaded again it is off by {lost:.3f}; matrices saved: {len(saved)}; missing keys: {missing}")
    assert (len(saved) == 0) == is_lost and not missing
    assert (lost > 0.3 * moved) == is_lost and (lost < 1e-5) != is_lost
PY
