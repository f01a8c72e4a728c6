#!/usr/bin/env bash
# Autocast keeps the bf16 copy of a weight that learns, and makes that of a frozen weight anew at every use.
#
# Guess, written first: within one autocast region a weight is cast once, whether it learns or not; a frozen base, as LoRA
# has it, costs no more than one that learns.
# Seen with torch 2.13.0 (CPU): a layer that is called 12 times, as ALBERT's is, casts its weight once where it learns, and
# 12 times where it is frozen, with and without a gradient for its input. Between two regions nothing is kept of either. So
# freezing adds casts: a step of LoRA over a shared layer makes 12 copies of a weight that never changes.
# For pretune: what is frozen is cast once a run (`pretune/nn/constant_cast.py`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import torch
from torch.profiler import profile

print(f"torch {torch.__version__.partition('+')[0]}")
CALLS = 12


def casts(learns: bool, gradient: bool, regions: int = 1) -> int:
    """How often the weight of a layer is cast that is called some times in each of some regions."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(96, 96, bias=False).requires_grad_(learns)
    x = torch.randn(4, 96, dtype=torch.bfloat16, requires_grad=gradient)
    with profile(record_shapes=True) as seen:
        for _ in range(regions):
            with torch.autocast("cpu", torch.bfloat16):
                y = x
                for _ in range(CALLS):
                    y = layer(y)
    rows = seen.key_averages(group_by_input_shape=True)
    return sum(row.count for row in rows if row.key == "aten::_to_copy" and row.input_shapes[0] == [96, 96])


for gradient in (True, False):
    learning, frozen = casts(True, gradient), casts(False, gradient)
    print(f"{CALLS} calls, gradient of the input {gradient}: {learning} cast of a weight that learns, {frozen} of a frozen one")
    assert (learning, frozen) == (1, CALLS)
print(f"two regions: {casts(True, True, 2)} and {casts(False, True, 2)}")
assert (casts(True, True, 2), casts(False, True, 2)) == (2, 2 * CALLS)
PY
