#!/usr/bin/env bash
# Question answering on a pretrained Llama, Qwen2 or Qwen3 starts from a random body.
#
# Guess, written first: `LlamaForQuestionAnswering.from_pretrained(folder of a LlamaForCausalLM)` loads every layer and
# initialises `qa_outputs` alone, as Bert, GPT-2, GPT-NeoX, BART and T5 do.
# Seen with transformers 5.23.0, torch 2.13.0 (CPU): not one tensor is loaded. The class keeps its body under
# `transformer.`, the files under `model.`, and the prefix is not translated; the load ends with a report of missing and
# unexpected keys, no error. GPT-2 and GPT-NeoX, tried beside them, load all of their body.
# For pretune: a start/end head on these families reads `model.` and `transformer.` alike, and writes `transformer.`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import tempfile

import torch
import transformers

transformers.logging.set_verbosity_error()
shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
gpt2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
cases = {
    "Llama": (shape, False),
    "Qwen2": ({**shape, "num_key_value_heads": 2}, False),
    "Qwen3": ({**shape, "num_key_value_heads": 2, "head_dim": 16}, False),
    "GPTNeoX": (shape, True),
    "GPT2": (gpt2, True),
}
for family, (fields, body_is_loaded) in cases.items():
    torch.manual_seed(0)
    causal = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model = getattr(transformers, f"{family}{causal}")(getattr(transformers, f"{family}Config")(**fields))
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        reader = getattr(transformers, f"{family}ForQuestionAnswering")
        loaded, report = reader.from_pretrained(saved, output_loading_info=True)
    body = [name for name in loaded.state_dict() if not name.startswith("qa_outputs")]
    missing = [name for name in report["missing_keys"] if not name.startswith("qa_outputs")]
    print(f"transformers {transformers.__version__} {family}: {len(missing)} of {len(body)} weights of the body missing")
    assert (not missing) == body_is_loaded, family
    if not body_is_loaded:
        assert set(missing) == set(body), "some weights are loaded now"
PY
