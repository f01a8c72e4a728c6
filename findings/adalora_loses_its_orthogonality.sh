#!/usr/bin/env bash
# AdaLoRA without a task type trains without its orthogonality term, and says nothing.
#
# Guess, written first: the loss of a model that `get_peft_model` wraps with an `AdaLoraConfig` holds the orthogonality term
# of the paper, weighted by `orth_reg_weight` (0.5 by default), whatever `task_type` is: that field is optional, and the
# documentation says of it only which class of model is returned.
# Seen with peft 0.21.2 and transformers 5.23.0: with `task_type="SEQ_CLS"` the loss of the same batch is larger by half the
# mean distance of the Gram matrices from identity. Without `task_type` (None) it is the plain loss of the task, and
# `orth_reg_weight=1000` changes nothing: `PeftModel.forward` calls the model inside `AdaLoraModel`, whose `forward` adds the
# term. Singular vectors are then free to collapse, on which the importance of triplets rests.
# For pretune: the term is one of the method's own (`terms` of `tune/adalora.py`), which the training step adds whatever the
# model, the task or the objective is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import peft
import torch
import transformers


def loss(task_type: str | None, weight: float) -> float:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = transformers.BertForSequenceClassification(config).eval()
    adalora = peft.AdaLoraConfig(
        target_modules=["query", "value"], total_step=100, tinit=10, tfinal=10, orth_reg_weight=weight, task_type=task_type
    )
    wrapped = peft.get_peft_model(model, adalora)
    tokens = torch.arange(20).view(2, 10)
    return float(wrapped(input_ids=tokens, labels=torch.tensor([0, 1])).loss.detach())


print(f"peft {peft.__version__}, transformers {transformers.__version__}")
losses = {}
for task_type in ("SEQ_CLS", None):
    for weight in (0.0, 0.5, 1000.0):
        losses[task_type, weight] = loss(task_type, weight)
        print(f"task_type={task_type}, orth_reg_weight={weight:g}: loss {losses[task_type, weight]:.4f}")
assert losses["SEQ_CLS", 0.5] > losses["SEQ_CLS", 0.0] + 0.1, "with a task type, the term counts"
assert losses[None, 0.0] == losses[None, 0.5] == losses[None, 1000.0], "without one, it does not"
PY
