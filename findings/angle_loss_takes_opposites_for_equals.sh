#!/usr/bin/env bash
# Trained by AnglELoss, a pair that should be alike can end with the smallest cosine of all, and a loss of 0.
#
# Guess, written first: AnglELoss is CoSENTLoss with a better gradient, so it too puts cosines in the order of the labels;
# opposite vectors are the least alike.
# Seen with sentence-transformers 6.2.0, torch 2.13.0 (CPU): `pairwise_angle_sim` is the absolute value of cosine and sine,
# as in the authors' own code (SeanLee97/AnglE), so that v and -v are as alike as v and v: 1.0. The loss does not change
# when a vector is turned round. A pair with the label 1 that begins at the cosine -0.3, beside two with the label 0 at 0.2
# and 0.1, is pushed down to -0.42 while the loss falls from 0.14 to 0.00; CoSENTLoss takes it to the front. By cosines, as
# models are used and evaluated, it is last.
# For pretune: the loss `angle` is the same, number by number, and its page says so; `cosent` is the default.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 sentence-transformers==6.2.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import math

import sentence_transformers
import torch
from sentence_transformers.sentence_transformer.losses import AnglELoss, CoSENTLoss
from sentence_transformers.util import pairwise_angle_sim

vector = torch.tensor([[0.6, 0.8, 0.0, 0.0]])
same, opposite = float(pairwise_angle_sim(vector, vector)), float(pairwise_angle_sim(vector, -vector))
print(f"sentence-transformers {sentence_transformers.__version__}: v and v {same:.3f}, v and -v {opposite:.3f}")
assert abs(same - 1) < 1e-6 and abs(opposite - 1) < 1e-6

labels = torch.tensor([1.0, 0.0, 0.0])
first = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 3)
begin = [-0.3, 0.2, 0.1]  # cosines of the pairs; the first is the one that should be alike
ends = {}
for loss in (AnglELoss(None), CoSENTLoss(None)):
    name = type(loss).__name__
    second = torch.tensor([[c, math.sqrt(1 - c * c), 0.0, 0.0] for c in begin], requires_grad=True)
    optimizer = torch.optim.SGD([second], lr=0.01)
    values = []
    for _ in range(2000):
        value = loss.compute_loss_from_embeddings([first, second], labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    ends[name] = torch.cosine_similarity(first, second).tolist()
    shown = ", ".join(f"{cosine:+.3f}" for cosine in ends[name])
    print(f"{name}: loss {values[0]:.3f} -> {values[-1]:.3f}; cosines of labels 1, 0, 0: {shown}")
    assert values[-1] < 0.05 < values[0]
assert ends["AnglELoss"][0] < begin[0] < min(ends["AnglELoss"][1:])
assert ends["CoSENTLoss"][0] > max(ends["CoSENTLoss"][1:])
PY
