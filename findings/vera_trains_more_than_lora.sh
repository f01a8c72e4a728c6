#!/usr/bin/env bash
# VeRA of the library adapters trains whole square matrices where the method has vectors: 48 times what LoRA trains.
#
# Guess, written first: VeRA learns two vectors for each matrix that it changes, one of the rank's length and one of the
# output's, and so fewer parameters than LoRA of the same rank: 8 + 768 a matrix of a BERT base, and not 2 * 8 * 768.
# Seen with adapters 1.3.0 and transformers 4.57.6 (CPU), BERT base with two layers, the default configurations: LoRA of
# rank 8 trains 49,152 parameters, VeRA 2,359,552, for each of the four matrices 8 x 8 and 768 x 768. The vectors are kept
# as the diagonals of matrices that are parameters whole, and what stands beside the diagonal has a gradient too. DvoRA is
# the same. `adapter_summary` gives the number; nothing warns.
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
tokens = torch.arange(4, 12)[None]
trained = {}
for kind in ("lora", "vera"):
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(num_hidden_layers=2))
    adapters.init(model)
    model.add_adapter("a", config=kind)
    model.train_adapter("a")
    trained[kind] = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    print(f"{kind}: {trained[kind]:,} parameters learn")
model(input_ids=tokens).last_hidden_state[0, 0, 0].backward()
(weight,) = [w for name, w in model.named_parameters() if name == "encoder.layer.0.attention.self.value.loras.a.vera_B"]
beside = int((weight.grad - torch.diag(weight.grad.diag())).count_nonzero())
print(f"vera_B has shape {list(weight.shape)}, and {beside:,} numbers beside its diagonal have a gradient")
assert trained == {"lora": 49152, "vera": 2359552}
assert list(weight.shape) == [768, 768] and beside > 500_000
PY
