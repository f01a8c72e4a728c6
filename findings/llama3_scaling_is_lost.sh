#!/usr/bin/env bash
# CTranslate2 converts Llama 3.1 and 3.2 without an error and leaves out their rotary scaling: other logits, other tokens.
#
# Guess, written first: `TransformersConverter` knows the scaling `llama3` (it has a name in its table of supported ones), so
# a converted model computes the logits of transformers within 1e-4, as it does without a scaling or with a linear one.
# Seen with ctranslate2 4.8.5 (CPU) and transformers 5.23.0: `factor` and `original_max_position_embeddings` are not written.
# The engine then takes a factor of 1, and computes, within 1e-4, the logits of the same weights without any scaling. With
# the values of Llama 3.1 and 3.2 (factor 8 or 32 of 8,192 positions) a tiny model's logits are off by half their deviation
# within 300 tokens, and 3 % of its best tokens are others; nothing warns. The engine reads both values where they stand in
# the spec: put there by hand, the logits are right.
# With transformers 4.57.6 it is worse: `rope_theta` is looked for inside `rope_scaling`, where only version 5 has it, and
# 10,000 is taken for the 500,000 of config.json, for a linear scaling too: half of the best tokens or more are others.
# For pretune: an export writes all four values, and compares the engine's logits with the model's before the folder appears.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/scaling.py" <<'PY'
import tempfile
from typing import Any

import ctranslate2
import numpy as np
import tokenizers
import torch
import transformers
from ctranslate2.converters import TransformersConverter

ROWS, BASE = 64, 500_000.0
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
IDS = torch.randint(3, ROWS, (1, 300), generator=torch.Generator().manual_seed(0))


def model(scaling: dict[str, Any] | None, base: float = BASE) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    rotary = {"rope_theta": base, "rope_scaling": scaling and dict(scaling), "max_position_embeddings": 131_072}
    config = transformers.LlamaConfig(vocab_size=ROWS, initializer_range=0.2, **sizes, **rotary)
    return transformers.LlamaForCausalLM(config).eval()


def logits(model: transformers.LlamaForCausalLM) -> np.ndarray:
    with torch.inference_mode():
        return model(IDS).logits[0].numpy()


def converted(model: transformers.LlamaForCausalLM, by_hand: dict[str, np.generic]) -> np.ndarray:
    names = {f"t{row}": row for row in range(ROWS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="t0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="t0", bos_token="t1", eos_token="t2")
    folder = tempfile.mkdtemp(dir=".")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    converter = TransformersConverter(folder)
    if by_hand:
        spec = converter._load()
        for layer in spec.decoder.layer:
            vars(layer.self_attention).update(by_hand)
        converter._load = lambda: spec
    converter.convert(f"{folder}/converted")
    engine = ctranslate2.Generator(f"{folder}/converted", compute_type="float32", intra_threads=1)
    return np.array(engine.forward_batch([[f"t{row}" for row in IDS[0].tolist()]]))[0]


torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
fifth = transformers.__version__.startswith("5.")
print(f"ctranslate2 {ctranslate2.__version__}, transformers {transformers.__version__}")
cases = [("no scaling", None), ("linear, 4", {"rope_type": "linear", "factor": 4.0})]
for factor, positions in ((8.0, 8192), (32.0, 8192), (8.0, 64)):
    scaling = LLAMA3 | {"factor": factor, "original_max_position_embeddings": positions}
    cases.append((f"llama3, {factor:g} of {positions}", scaling))
for name, scaling in cases:
    original = model(scaling)
    expected, got = logits(original), converted(original, {})
    error, same = abs(got - expected).max(), (got.argmax(1) == expected.argmax(1)).mean()
    print(f"{name}: logits of deviation {expected.std():.2f} differ by up to {error:.1e}, {same:.0%} of the best tokens are the same")
    lost = name.startswith("llama3")
    assert (error > 0.5) == (lost or (scaling is not None and not fifth)), name
    if lost:
        plain = model(None, BASE if fifth else 10_000.0)
        distance = abs(got - logits(plain)).max()
        print(f"  from the same weights with base {BASE if fifth else 10_000:g} and no scaling: {distance:.1e}")
        assert distance < 1e-4
        by_hand = {
            "rotary_scaling_factor": np.float32(scaling["factor"]),
            "original_max_position_embeddings": np.int32(scaling["original_max_position_embeddings"]),
            "rotary_base": np.float32(BASE),
        }
        right = abs(converted(original, by_hand) - expected).max()
        print(f"  with factor, positions and base put into the spec by hand: {right:.1e}")
        assert right < 1e-3
PY
cd "$folder"
python3 -m venv venv
for version in 5.23.0 4.57.6; do
    venv/bin/pip install --quiet torch==2.13.0 "transformers==$version" ctranslate2==4.8.5
    HF_HUB_OFFLINE=1 venv/bin/python -W ignore scaling.py
done
