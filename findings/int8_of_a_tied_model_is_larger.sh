#!/usr/bin/env bash
# Quantized to int8 by torchao, a model whose head is its embedding takes more bytes than before, and holds both tables.
#
# Guess, written first: `quantize_(model, Int8WeightOnlyConfig())` rounds the linear layers, a tied head with them, and the files
# are smaller; half of bf16 at best.
# Seen with torchao 0.18.0, torch 2.13.0: the head becomes a table of int8, the embedding stays the old one, and what was one
# parameter is two. A small model is mostly vocabulary: 8,000 tokens of width 128 above one layer take 2.1 MB in bf16 and 3.1 MB
# as int8, 4.2 and 5.2 MB from fp32. No warning.
# For pretune: embedding and head are one rounded table (`pretune compress quantize`, docs/compress.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchao==0.18.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import io
from importlib.metadata import version

import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

print({name: version(name).partition("+")[0] for name in ("torchao", "torch")})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(8000, 128), nn.Linear(128, 128)
        self.head = nn.Linear(128, 8000, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embedding(tokens)))


def size(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue())


torch.manual_seed(0)
for dtype in (torch.bfloat16, torch.float32):
    model = Tied().to(dtype)
    before, scores = size(model), model(torch.arange(9)).float()
    quantize_(model, Int8WeightOnlyConfig())
    after = size(model)
    error = (model(torch.arange(9)).float() - scores).abs().max() / scores.abs().max()
    print(f"{dtype}: {before:,} bytes, int8 {after:,}; one table {model.head.weight is model.embedding.weight}; {error:.1%} off")
    assert after > 1.2 * before
    assert model.head.weight is not model.embedding.weight
    assert error < 0.05
PY
