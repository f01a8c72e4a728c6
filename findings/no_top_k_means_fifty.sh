#!/usr/bin/env bash
# A generation_config.json that says nothing of top_k, or null, samples among 50 tokens; the argument `top_k=None` among all.
#
# Guess, written first: transformers 5 took the 50 of version 4 away: `GenerationConfig().top_k` is None, and null is what files
# say. So `generate(do_sample=True)` draws from the whole distribution, as the argument None does.
# Seen with transformers 5.23.0 (CPU), a model to which 500 tokens are nearly the same: in 2,000 draws all but a few come up with
# the argument `top_k=None` or 0, or 0 in the file; with no word about it, `GenerationConfig(top_k=None)`, null in the file, or
# only `temperature=1.0` or `top_p=1.0` given, it is 50, and what is printed or saved still says None. Texts are less varied than
# the probabilities that `score` gives, and other engines that read the same file draw from all.
# For pretune: `do_sample` in a file means 50 where it names no top_k, as there; `--temperature` alone means all where the file
# does not sample, and docs/compatibility.md says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationConfig

torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
config = transformers.LlamaConfig(vocab_size=500, pad_token_id=0, initializer_range=0.001, **sizes)
transformers.LlamaForCausalLM(config).save_pretrained("model")
prompt = torch.full((2000, 1), 5)


def drawn(in_file: dict[str, Any], **options: Any) -> int:
    """How many different tokens 2,000 draws give."""
    path = Path("model/generation_config.json")
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | in_file))
    model = transformers.AutoModelForCausalLM.from_pretrained("model").eval()
    path.write_text(before)
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=True, max_new_tokens=1, **options)
    count = int(out[:, 1].unique().numel())
    print(f"in the file {in_file or 'nothing'}, given {options or 'nothing'}: {count} of 500 tokens; the model says {model.generation_config.top_k}")
    return count


print(f"transformers {transformers.__version__}, GenerationConfig().top_k: {GenerationConfig().top_k}")
assert GenerationConfig().top_k is None
assert "top_k" not in json.loads(Path("model/generation_config.json").read_text())
for in_file, options in (({}, {}), ({"top_k": None}, {}), ({}, {"temperature": 1.0}), ({}, {"top_p": 1.0})):
    assert drawn(in_file, **options) == 50
assert drawn({}, generation_config=GenerationConfig(top_k=None)) == 50
for in_file, options in (({}, {"top_k": None}), ({}, {"top_k": 0}), ({"top_k": 0}, {}), ({}, {"top_k": 500})):
    assert drawn(in_file, **options) > 450
PY
