#!/usr/bin/env bash
# Prefix tuning of T5 or BART trains a pair of keys and values for each layer, and half of the layers' are never read.
#
# Guess, written first: the table of a prefix (`num_layers` pairs of keys and values) gives each decoder layer a pair of
# its own, as it does in GPT-2; every row of it has a gradient after one backward.
# Seen with peft 0.21.2 and transformers 5.23.0 (CPU): of an encoder-decoder the table is put behind itself and cut into
# four tensors a layer, for its own and for cross-attention; the second two are then dropped. So layer i of L reads pair
# 2i mod L: with 2, 4, 6 or 12 layers the pairs of odd number get no gradient, and layer i has the same prefix as layer
# i + L/2. With 3 layers every pair is read, by another layer than its own. GPT-2's pairs are all read. Nothing warns.
# For pretune: each attention has its own prefix; such files are read as they act, and a prefix that they cannot hold is
# refused when it is exported.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import warnings

import peft
import torch
import transformers

warnings.simplefilter("ignore")


def base(name: str, layers: int) -> torch.nn.Module:
    if name == "GPT-2":
        config = transformers.GPT2Config(n_embd=16, n_layer=layers, n_head=2, n_positions=32, vocab_size=40, bos_token_id=0, eos_token_id=0)
        return transformers.GPT2LMHeadModel(config)
    if name == "T5":
        config = transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=layers, num_heads=2, vocab_size=40, decoder_start_token_id=0)
        return transformers.T5ForConditionalGeneration(config)
    sides = {f"{side}_{field}": value for side in ("encoder", "decoder") for field, value in (("layers", layers), ("attention_heads", 2), ("ffn_dim", 32))}
    config = transformers.BartConfig(d_model=16, vocab_size=40, max_position_embeddings=32, decoder_start_token_id=0, **sides)
    return transformers.BartForConditionalGeneration(config)


tokens = torch.arange(4, 12)[None]
cases = [("GPT-2", 4), ("T5", 2), ("T5", 3), ("T5", 6), ("T5", 12), ("BART", 6)]
for name, layers in cases:
    torch.manual_seed(0)
    task = "CAUSAL_LM" if name == "GPT-2" else "SEQ_2_SEQ_LM"
    model = peft.get_peft_model(base(name, layers), peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=3))
    model(input_ids=tokens, **({} if name == "GPT-2" else {"decoder_input_ids": tokens})).logits.square().sum().backward()
    (table,) = [parameter for parameter in model.parameters() if parameter.requires_grad]
    pairs = table.grad.view(3, layers, -1).abs().amax(dim=(0, 2))
    idle = [number for number in range(layers) if not pairs[number]]
    print(f"peft {peft.__version__} {name} of {layers} layers: pairs without a gradient: {idle}")
    assert idle == ([] if name == "GPT-2" or layers % 2 else list(range(1, layers, 2))), name
PY
