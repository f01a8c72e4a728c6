#!/usr/bin/env bash
# GPT-NeoX's language-modelling head is called one thing in memory and another on disk.
#
# Guess, written first: what `save_pretrained` writes has the names of `state_dict()`, as for Llama, GPT-2 and BERT.
# Seen with transformers 5.23.0, torch 2.13.0 (CPU): the module is `lm_head`, the file says `embed_out.weight`; it is
# renamed when it is written and when it is read. What merges, averages or compares files by the names of a live model
# (task vectors, soups, sharded loaders) finds no head, and a file with `lm_head.weight` loads as well.
# For pretune: a weight map says what files say, `embed_out` (tests/outside/neox.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import torch
import transformers
from safetensors.torch import load_file, save_file

transformers.logging.set_verbosity_error()
shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
for family in ("GPTNeoX", "Llama"):
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**shape))
    model.save_pretrained(family)
    live, saved = set(model.state_dict()), set(load_file(f"{family}/model.safetensors"))
    print(f"transformers {transformers.__version__} {family}: only live {live - saved}, only saved {saved - live}")
    if family == "Llama":
        assert live == saved
        continue
    assert live - saved == {"lm_head.weight"}
    assert saved - live == {"embed_out.weight"}
    renamed = load_file(f"{family}/model.safetensors")
    renamed["lm_head.weight"] = renamed.pop("embed_out.weight")
    save_file(renamed, f"{family}/model.safetensors", {"format": "pt"})
    again, report = type(model).from_pretrained(family, output_loading_info=True)
    print("a file with lm_head.weight: missing", set(report["missing_keys"]))
    assert not report["missing_keys"]
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
PY
