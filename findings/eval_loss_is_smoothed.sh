#!/usr/bin/env bash
# With `label_smoothing_factor`, the Trainer's eval_loss is smoothed too, so that its exponential is no perplexity.
#
# Guess, written first: label smoothing regularises training, and `evaluate()` reports the plain cross-entropy, as fairseq
# does beside its smoothed loss (`nll_loss`), so that `exp(eval_loss)` is the perplexity, as the example scripts compute it.
# Seen with transformers 5.23.0 (and accelerate 1.15.0): a model that is sure of every right token, of perplexity 1.00, has an
# exp(eval_loss) of 4.80 with the usual factor of 0.1 and of 23.01 with 0.2: `compute_loss` smooths whether the model trains
# or not. By this number checkpoints are chosen (`metric_for_best_model="loss"`), sure models are punished, and runs with
# different factors are compared.
# For pretune: `task.generation.label_smoothing` acts while a task is in training mode alone; losses of validation and of
# `evaluate` are those of the references.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
HF_HUB_OFFLINE=1 OUT="$folder/out" "$folder/venv/bin/python" - <<'PY'
import math
import os

import torch
import transformers

VOCABULARY = 50


class Sure(torch.nn.Module):
    """Gives the right token a logit that is higher than all others by a fixed distance."""

    def __init__(self, distance: float) -> None:
        super().__init__()
        self.config = transformers.PretrainedConfig()
        self.scale = torch.nn.Parameter(torch.tensor(distance))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.scale * torch.nn.functional.one_hot(input_ids, VOCABULARY).float()
        if labels is None:
            return {"logits": logits}
        loss = torch.nn.functional.cross_entropy(logits.view(-1, VOCABULARY), labels.view(-1))
        return {"loss": loss, "logits": logits}


def eval_loss(factor: float) -> float:
    arguments = transformers.TrainingArguments(
        output_dir=os.environ["OUT"], label_smoothing_factor=factor, report_to=[], use_cpu=True, disable_tqdm=True
    )
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(4)]
    trainer = transformers.Trainer(model=Sure(16.0), args=arguments, eval_dataset=rows)
    return float(trainer.evaluate()["eval_loss"])


transformers.logging.set_verbosity_error()
print(f"transformers {transformers.__version__}")
losses = {factor: eval_loss(factor) for factor in (0.0, 0.1, 0.2)}
for factor, loss in losses.items():
    print(f"label_smoothing_factor={factor:g}: eval_loss {loss:.4f}, exp(eval_loss) {math.exp(loss):.2f}")
assert losses[0.0] < 1e-4, "the model is sure of what is right"
assert losses[0.1] > 1.0, "with smoothing, evaluation says otherwise"
assert abs(losses[0.2] - 2 * losses[0.1]) < 0.01, "by the factor alone"
PY
