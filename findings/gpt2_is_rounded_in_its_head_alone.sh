#!/usr/bin/env bash
# torchao and quanto quantize nothing of a GPT-2 but its head, which makes the model larger; of a Llama they quantize all.
#
# Guess, written first: `quantize_(model, Int8WeightOnlyConfig())` and `quantize(model, weights=qint8)` make a causal
# language model of transformers about four times smaller, whatever its family, or say what they leave.
# Seen with torchao 0.18.0, optimum-quanto 0.2.7, transformers 5.23.0, torch 2.13.0 (CPU): both look for `nn.Linear`.
# GPT-2 keeps its matrices in transformers' `Conv1D`, so that no block is touched. The head, a Linear, is: it shared its
# matrix with the embedding, which stays in float32, so that the int8 one comes on top and the file grows (here by a few percent).
# No warning; logits change a little, as by quantization. A Llama of the same size has all its 14 matrices rounded (and
# the head comes on top as well).
# For pretune: `compress quantize` names what it changed, and fails where that is nothing (`compress/method.py`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 torchao==0.18.0 optimum-quanto==0.2.7 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
from importlib.metadata import version
from io import BytesIO

import optimum.quanto
import torch
import transformers
from torchao.quantization import Int8WeightOnlyConfig, quantize_

IDS = {"bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
GPT2 = transformers.GPT2Config(vocab_size=256, n_embd=64, n_layer=2, n_head=4, n_positions=32, **IDS)
LLAMA = transformers.LlamaConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
                                 max_position_embeddings=32, tie_word_embeddings=True, **IDS)  # fmt: skip
print({name: version(name) for name in ("torchao", "optimum-quanto", "transformers", "torch")})


def size(model: torch.nn.Module) -> int:
    file = BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def torchao(model: torch.nn.Module) -> list[str]:
    quantize_(model, Int8WeightOnlyConfig())
    names = [name for name, weight in model.named_parameters(remove_duplicate=False) if type(weight.data).__name__ == "Int8Tensor"]
    return [name.removesuffix(".weight") for name in names]


def quanto(model: torch.nn.Module) -> list[str]:
    optimum.quanto.quantize(model, weights=optimum.quanto.qint8)
    optimum.quanto.freeze(model)
    return [name for name, module in model.named_modules() if isinstance(module, optimum.quanto.QLinear)]


for quantize in (torchao, quanto):
    for config, model_class in ((GPT2, transformers.GPT2LMHeadModel), (LLAMA, transformers.LlamaForCausalLM)):
        torch.manual_seed(0)
        model = model_class(config).eval()
        before = size(model)
        names = quantize(model)
        after = size(model)
        print(f"{quantize.__name__}, {model_class.__name__}: {len(names)} matrices, {before:,} -> {after:,} bytes")
        if config is GPT2:
            assert names == ["lm_head"] and after > before
        else:
            assert len(names) == 15 and after < before / 2
PY
