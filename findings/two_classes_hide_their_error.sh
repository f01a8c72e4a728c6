#!/usr/bin/env bash
# A two-class model's calibration error depends on how its classes are written: `BinaryCalibrationError`, which calls itself
# "top-label", is that of the probability of class 1; `MulticlassCalibrationError` of the same numbers can be 0 beside it.
#
# Guess, written first: both are equal.
# Seen with torchmetrics 1.9.0, torch 2.13.0: a model says 0.9 for spam of 50 texts, of which 40 are spam, and 0.1 of 50, of which none is, so
# that each probability of spam is 0.1 too high. As binary the error is 0.1; written as two classes it is 0: that one compares the larger
# probability with accuracy, and answers "spam" at 0.9 are as much too sure as answers "ham" at 0.9 are too unsure, in one bin. Both docstrings
# say "Top-label Calibration Error" and "top-1 prediction accuracy". What is fitted or chosen by the second leaves such a model as it is.
# For pretune: `evaluate` gives both, `ece` and `ece_classwise` (docs/guide/labels.md); tests/tasks/test_calibration.py has this example.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
import torchmetrics
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError

spam = torch.tensor([0.9] * 50 + [0.1] * 50)
truth = torch.tensor([1] * 40 + [0] * 60)
both = torch.stack([1 - spam, spam], 1)
binary = float(BinaryCalibrationError(n_bins=15)(spam, truth))
two = float(MulticlassCalibrationError(num_classes=2, n_bins=15)(both, truth))
print(f"torchmetrics {torchmetrics.__version__}: as binary {binary:.3f}, as two classes {two:.3f}")
assert abs(binary - 0.1) < 1e-5, "the binary error is that of the probability of class 1"
assert two < 1e-5, "errors of the two answers hide each other"
for kind in (BinaryCalibrationError, MulticlassCalibrationError):
    assert "Top-label Calibration Error" in kind.__doc__, "the docstrings call both top-label"
print("as described")
PY
