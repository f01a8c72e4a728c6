"""The usual training loop around a model of `transformers`: padded batches, full logits, clipping, AdamW.

Inputs are a safetensors file: for each batch `NNN.input_ids`, `NNN.labels` with -100 where
nothing is predicted, `NNN.attention_mask`, and `tokens`, the real tokens of each batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def setup(
    *,
    task: str,
    model: str,
    inputs: str,
    steps: int,
    precision: str,
    overrides: dict[str, Any],
    mask: bool,
    padding: str = "longest",
    length: int = 0,
    attention: str = "sdpa",
    optimizer: str = "fused",
    compile: bool = False,
) -> Callable[[], dict[str, float]]:
    """Load the model and the batches.

    Args:
        task: `mlm` or `clm`.
        model: a Hugging Face folder.
        inputs: the safetensors file.
        steps: in a run.
        precision: bf16 (autocast) or fp32.
        overrides: fields of the model's configuration, such as dropout rates.
        mask: whether the model is given the attention mask.
        padding: to the `longest` of the batch, or to a `fixed` length.
        length: the fixed one.
        attention: `sdpa` or `eager`.
        optimizer: AdamW `fused` or `foreach`.
        compile: by torch.compile.
    """
    network = load(task, model, attention, overrides)
    batches, tokens = read(inputs, length if padding == "fixed" else 0, mask or padding == "fixed")
    losses = {f"loss_{p}": first_loss(network.eval(), batches[0], p) for p in {"fp32", precision}}
    network.train()
    fused = optimizer == "fused"
    compiled = torch.compile(network) if compile else network
    adamw = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.01, fused=fused, foreach=not fused)
    step = 0

    def run() -> dict[str, float]:
        nonlocal step
        done = 0.0
        for _ in range(steps):
            place = step % len(batches)
            step += 1
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = compiled(**batches[place]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            adamw.step()
            adamw.zero_grad()
            loss.item()
            done += tokens[place]
        return {"tokens": done, **losses}

    return run


def load(task: str, folder: str, attention: str, overrides: dict[str, Any]) -> Any:
    """The model with its weights."""
    import transformers

    model_class = transformers.AutoModelForMaskedLM if task == "mlm" else transformers.AutoModelForCausalLM
    return model_class.from_pretrained(folder, attn_implementation=attention, **overrides)


def read(path: str, length: int, mask: bool) -> tuple[list[dict[str, Tensor]], list[float]]:
    """The batches, padded to at least `length`, and how many real tokens each has."""
    tensors = load_file(path)
    tokens = [float(n) for n in tensors.pop("tokens")]
    fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    names = [name for name in fill if mask or name != "attention_mask"]
    batches = []
    for number in range(len(tokens)):
        batch = {name: tensors[f"{number:03d}.{name}"] for name in names}
        padding_length = max(0, length - batch["input_ids"].shape[1])
        batches.append(
            {name: torch.nn.functional.pad(x, (0, padding_length), value=fill[name]) for name, x in batch.items()}
        )
    return batches, tokens


def first_loss(network: Any, batch: dict[str, Tensor], precision: str) -> float:
    """Without dropout, before any step."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return float(network(**batch).loss)
