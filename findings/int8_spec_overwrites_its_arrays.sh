#!/usr/bin/env bash
# A CTranslate2 spec that is rounded to int8 or int16 multiplies the arrays it was filled with: the live model is ruined.
#
# Guess, written first: `spec.optimize("int8")` gives the spec whole numbers and scales of its own; the arrays, or the torch
# parameters, from which a converter of one's own filled it are only read.
# Seen with ctranslate2 4.8.5 (CPU): with "int8", "int8_float32", "int8_float16", "int8_bfloat16" and "int16" each float32
# matrix is multiplied in place by its scales (a row's largest value becomes 127, the matrix's 1024), and the rounding alone
# makes a new array. So a torch module that shares the memory computes something else from then on, and a second spec that is
# filled from it, such as a float32 folder beside the int8 one, holds the multiplied weights. The first spec is right; nothing
# warns. Arrays of float16, which are copied into float32 first, and the types float16, bfloat16 and float32 change nothing.
# The converters of the package read a model of their own from disk and drop it, so nobody sees it there.
# For pretune: an export hands over copies, so that a model is the same after it (`_array` of interop/ctranslate2_specs.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 ctranslate2==4.8.5
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import ctranslate2
import numpy as np
import torch
from ctranslate2.specs import common_spec


def fill(weight: np.ndarray | torch.Tensor, type_name: str) -> common_spec.LinearSpec:
    spec = common_spec.LinearSpec()
    spec.weight = weight
    spec.validate()
    spec.optimize(type_name)
    return spec


print(f"ctranslate2 {ctranslate2.__version__}, numpy {np.__version__}, torch {torch.__version__}")
before = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
types = ("int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16", "float32")
for type_name in types:
    single, half = before.copy(), before.astype("float16")
    spec = fill(single, type_name)
    fill(half, type_name)
    print(f"{type_name}: largest value of each row {abs(before).max(1).round(2)}, afterwards {abs(single).max(1).round(2)}")
    assert np.array_equal(half, before.astype("float16")), "an array of float16 is only read"
    assert np.array_equal(single, before) == (not type_name.startswith("int")), type_name
    if type_name.startswith("int"):
        scale = spec.weight_scale.numpy().reshape(-1, 1)
        assert np.array_equal(single, before * scale), "multiplied by the scales, and not rounded"
        assert np.array_equal(spec.weight.numpy(), np.rint(before * scale)), "what the spec itself holds is right"

torch.manual_seed(0)
layer, row = torch.nn.Linear(8, 4), torch.ones(1, 8)
was = layer(row).detach().numpy().round(2)
fill(layer.weight.detach(), "int8")
written = fill(layer.weight.detach(), "float32").weight.numpy()
now = layer(row).detach().numpy().round(2)
print(f"torch.nn.Linear: outputs {was}, after an int8 spec was made of it {now}")
print(f"a float32 spec made of it next: largest weight {abs(written).max():.2f}; no weight of it was above {8**-0.5:.2f}")
assert abs(now - was).max() > 1 and np.allclose(abs(written).max(1), 127)
PY
