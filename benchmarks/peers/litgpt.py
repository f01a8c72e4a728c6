"""What `litgpt pretrain` does in a step, with litgpt's own `GPT`, cross-entropy and Fabric.

By default as in its `pretrain.py` on a CPU: bf16-mixed, `torch.compile`, AdamW without `fused` (which it keeps for
CUDA), cross-entropy in chunks of 128 rows; the embedding tied, which is an option there (`train.tie_embeddings`).
Its `GPT` has no learned positions: the weights must come with positions of zero, and its rotary fraction is 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

NAMES = {  # theirs: in files of `transformers`, whether transposed there
    "norm_1": ("ln_1", False),
    "attn.qkv": ("attn.c_attn", True),
    "attn.proj": ("attn.c_proj", True),
    "norm_2": ("ln_2", False),
    "mlp.fc": ("mlp.c_fc", True),
    "mlp.proj": ("mlp.c_proj", True),
}


def setup(
    *,
    model: str,
    inputs: str,
    shape: dict[str, int],
    steps: int,
    precision: str = "bf16-mixed",
    fused: bool = False,
    compile: bool = True,
    chunk: int = 128,
) -> Callable[[], dict[str, float]]:
    """Steps on given weights and batches.

    Args:
        model: a safetensors file of GPT-2 in the layout of `transformers`, with exact GELU and positions of zero.
        inputs: a safetensors file with `tokens` (batches, batch, length + 1).
        shape: n_layer, n_head, n_embd, block_size, vocab_size.
        steps: in a run.
        precision: Fabric's: bf16-mixed, bf16-true or 32-true.
        chunk: rows of the cross-entropy; 0 for all at once.
    """
    import lightning
    from litgpt.utils import chunked_cross_entropy, instantiate_torch_optimizer

    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    batches = load_file(inputs)["tokens"]
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision)
    fabric.launch()
    plain = build(shape, model)
    losses = {"loss_fp32": first_loss(plain, batches[0])}
    network = fabric.setup(torch.compile(plain) if compile else plain)
    if precision != "32-true":
        losses["loss_bf16"] = first_loss(network, batches[0])
    optimizer = instantiate_torch_optimizer("AdamW", network.parameters(), fused=fused)
    optimizer = fabric.setup_optimizers(optimizer)
    done = 0

    def run() -> dict[str, float]:
        nonlocal done
        for _ in range(steps):
            batch = batches[done % len(batches)]
            done += 1
            logits = network(batch[:, :-1].contiguous().long())
            loss = chunked_cross_entropy(logits, batch[:, 1:].contiguous().long(), chunk)
            fabric.backward(loss)
            fabric.clip_gradients(network, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
        return {"tokens": float(steps * batches[0, :, 1:].numel()), **losses}

    return run


def build(shape: dict[str, int], path: str) -> Any:
    """litgpt's GPT in the shape of GPT-2, with the weights of a file."""
    from litgpt.config import Config
    from litgpt.model import GPT

    config = Config(
        n_layer=shape["n_layer"],
        n_head=shape["n_head"],
        n_embd=shape["n_embd"],
        block_size=shape["block_size"],
        vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"],
        parallel_residual=False,
        rotary_percentage=0.0,
        bias=True,
        norm_class_name="LayerNorm",
        mlp_class_name="GptNeoxMLP",
        gelu_approximate="none",
    )
    model = GPT(config)
    model.load_state_dict(translated(load_file(path), config.n_layer), strict=False)
    model.transformer.wte.weight = model.lm_head.weight
    return model


def translated(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Weights by litgpt's names.

    Raises:
        ValueError: positions that are not zero, which litgpt's GPT has no place for.
    """
    if tensors["transformer.wpe.weight"].any():
        raise ValueError("litgpt has no learned positions: they must be zero")
    out = {"lm_head.weight": tensors["transformer.wte.weight"]}
    pairs = [("transformer.ln_f", "transformer.ln_f", False)]
    for n in range(layers):
        pairs += [
            (f"transformer.h.{n}.{a}", f"transformer.h.{n}.{b}", transposed) for a, (b, transposed) in NAMES.items()
        ]
    for ours, theirs, transposed in pairs:
        weight = tensors[f"{theirs}.weight"]
        out[f"{ours}.weight"] = weight.t() if transposed else weight
        out[f"{ours}.bias"] = tensors[f"{theirs}.bias"]
    return out


@torch.no_grad()
def first_loss(network: nn.Module, batch: Tensor) -> float:
    """Before any step."""
    from litgpt.utils import chunked_cross_entropy

    return float(chunked_cross_entropy(network(batch[:, :-1].contiguous()), batch[:, 1:].contiguous()))
