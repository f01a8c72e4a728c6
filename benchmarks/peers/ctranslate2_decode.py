"""Greedy decoding by CTranslate2, whose model is made of a GPT-2 folder by its own classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def setup(
    *, model: str, prompts: list[list[int]], new: int, format: str, threads: int, folder: str
) -> Callable[[], dict[str, float]]:
    """Converts the model, once for all runs; a run reads the prompts and decodes.

    Args:
        model: a Hugging Face folder of a GPT-2.
        prompts: token ids, of one length.
        new: tokens to decode.
        format: what CTranslate2 calls a compute type, as "int8".
        threads: of its matmuls.
        folder: for the converted model.
    """
    import ctranslate2

    target = Path(folder) / f"ctranslate2-{format}"
    if not (target / "model.bin").exists():
        target.mkdir(parents=True, exist_ok=True)
        _convert(Path(model)).save(str(target))
    generator: Any = ctranslate2.Generator(
        str(target), device="cpu", compute_type=format, inter_threads=1, intra_threads=threads
    )
    tokens = [[f"w{n}" for n in prompt] for prompt in prompts]

    def run() -> dict[str, float]:
        out = generator.generate_batch(
            tokens,
            max_length=new,
            min_length=new,
            sampling_topk=1,
            beam_size=1,
            include_prompt_in_result=False,
            end_token=[],
        )
        return {"tokens": float(sum(len(each.sequences_ids[0]) for each in out))}

    return run


def _convert(folder: Path) -> Any:
    """The model as CTranslate2's classes describe it."""
    import ctranslate2
    from safetensors.numpy import load_file

    loaded = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("transformer."): value for name, value in loaded.items()}
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("h."))
    size, width = weights["wte.weight"].shape
    spec = ctranslate2.specs.TransformerDecoderModelSpec.from_config(
        layers, width // 64, pre_norm=True, activation=ctranslate2.specs.Activation.GELUTanh
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = weights["wte.weight"]
    decoder.position_encodings.encodings = weights["wpe.weight"]
    decoder.projection.weight = weights["wte.weight"]

    def norm(target: Any, name: str) -> None:
        target.gamma, target.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]

    def linear(target: Any, name: str) -> None:
        target.weight, target.bias = np.ascontiguousarray(weights[f"{name}.weight"].T), weights[f"{name}.bias"]

    norm(decoder.layer_norm, "ln_f")
    for n, layer in enumerate(decoder.layer):
        norm(layer.self_attention.layer_norm, f"h.{n}.ln_1")
        linear(layer.self_attention.linear[0], f"h.{n}.attn.c_attn")
        linear(layer.self_attention.linear[1], f"h.{n}.attn.c_proj")
        norm(layer.ffn.layer_norm, f"h.{n}.ln_2")
        linear(layer.ffn.linear_0, f"h.{n}.mlp.c_fc")
        linear(layer.ffn.linear_1, f"h.{n}.mlp.c_proj")
    spec.config.unk_token = "w0"
    spec.config.bos_token = spec.config.eos_token = "w0"
    spec.register_vocabulary([f"w{n}" for n in range(size)])
    spec.validate()
    return spec
