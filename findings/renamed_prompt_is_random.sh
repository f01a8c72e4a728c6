#!/usr/bin/env bash
# A prompt that the library adapters loads under another name (`load_as`) is a new random one.
#
# Guess, written first: `load_adapter(folder, load_as="b")` gives the same adapter another name, as the documentation says,
# for every method that can be saved.
# Seen with adapters 1.3.0 and transformers 4.57.6 (CPU): so it is for bottleneck adapters, LoRA, (IA)^3, prefixes and
# ReFT, with equal outputs. Of prompt tuning no tensor is renamed: the saved vectors count as unexpected, those of the new
# name as missing, which is said at the level of information, and the adapter has freshly drawn ones. Outputs differ by as
# much as the prompt had moved them. Under its own name it is loaded as it was.
# For pretune: an adapter has no name that its tensors would have to be found by; prompts of this library are refused.
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
torch.manual_seed(0)
transformers.BertModel(transformers.BertConfig(**SIZES)).save_pretrained("base")


def base():
    model = transformers.BertModel.from_pretrained("base")
    adapters.init(model)
    return model


@torch.no_grad()
def answers(model):
    return model.eval()(input_ids=tokens).last_hidden_state


for kind in ("seq_bn", "lora", "ia3", "prefix_tuning", "loreft", "prompt_tuning"):
    model = base()
    model.add_adapter("a", config=kind)
    model.set_active_adapters("a")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".a." in name:
                weight.add_(0.2 * torch.randn_like(weight))
    model.save_adapter(kind, "a")
    differences = {}
    for name in ("a", "b"):
        other = base()
        other.load_adapter(kind, load_as=name, set_active=True)
        differences[name] = float((answers(other) - answers(model)).abs().max())
    print(f"{kind}: outputs differ by {differences['a']:.1e} as 'a', by {differences['b']:.1e} as 'b'")
    assert differences["a"] < 1e-5
    assert (differences["b"] > 0.1) == (kind == "prompt_tuning") and (differences["b"] < 1e-5) != (kind == "prompt_tuning")
PY
