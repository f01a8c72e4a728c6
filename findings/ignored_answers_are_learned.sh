#!/usr/bin/env bash
# A question-answering head learns the first token where start_positions and end_positions are -100.
#
# Guess, written first: -100 is ignored, as in the labels of token classification, masked and causal language modelling and
# sequence classification; so a window whose answer is not known adds nothing to the loss.
# Seen with transformers 5.23.0, torch 2.13.0 (CPU): positions are clamped to 0 from below before the loss, and what is
# ignored is a position behind the last token. So -100 (or -1) is position 0: the model learns, without a warning, that
# there is no answer, which [CLS] stands for. All families with the common loss do so; with a position of the length of
# the row, or beyond, in every row of a batch, the loss is nan.
# For pretune: a window whose answer is not known has no target and no term; one without an answer has a target of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import torch
import transformers

shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
tokens = torch.arange(2, 12)[None]
for family in ("Bert", "Roberta", "Electra", "Llama"):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**shape)
    reader = getattr(transformers, f"{family}ForQuestionAnswering")(config).eval()
    losses = {}
    for place in (-100, -1, 0, 3, 10):
        positions = torch.tensor([place])
        with torch.no_grad():
            losses[place] = float(reader(tokens, start_positions=positions, end_positions=positions).loss)
    tagger = getattr(transformers, f"{family}ForTokenClassification")(config).eval()
    labels = torch.full((1, 10), -100)
    labels[0, 3] = 1
    with torch.no_grad():
        one, logits = tagger(tokens, labels=labels)[:2]
        only = torch.nn.functional.cross_entropy(logits[0, 3][None], labels[0, 3][None])
    print(f"transformers {transformers.__version__}, {family}: loss by position {losses}; tags of -100 are left out: "
          f"{float(one):.6f} = {float(only):.6f}")
    assert losses[-100] == losses[-1] == losses[0] != losses[3]
    assert losses[10] != losses[10]  # nan
    assert abs(float(one) - float(only)) < 1e-6
PY
