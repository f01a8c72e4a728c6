"""Training steps of a GPT-2 (CLM) against nanoGPT as its README runs it on a CPU, and against litgpt in bf16.

6 x 384 with blocks of 256 is nanoGPT's model of characters (`config/train_shakespeare_char.py`), so it has 65 tokens;
the same layers under GPT-2's vocabulary are a row of their own. Exact GELU, no dropout, AdamW. Positions begin at zero
on all sides (litgpt's model has none; ours and nanoGPT's learn them), and so do biases (which nanoGPT's default leaves
out): all compute the same function of the same weights at first. Each pays for what it has.

PRETUNE_NANOGPT names a checkout of nanoGPT, whose own `model.py` then takes the place of our re-creation.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.benchmark import Context, Search, Setting, Side, peer
from benchmarks.suite.train_step import WARM, Shape, TrainStep, batches_of, setup

__all__ = ["CausalSteps", "setup"]

CHARACTERS = 65  # of tiny Shakespeare
PADDED = 50304  # GPT-2's vocabulary as nanoGPT pads it


class CausalSteps(TrainStep):
    """Whole steps: forward, backward, clipping, update."""

    about = (
        "Whole training steps of a GPT-2 (6 x 384 with nanoGPT's 65 characters, and with 50304 tokens): forward, loss "
        "at every position, backward, clipping, AdamW. Same weights, same batches, equal first loss. nanoGPT's "
        "default is what its README runs on a CPU: fp32, AdamW unfused, no compiling, no biases; litgpt's is `litgpt "
        "pretrain`: bf16-mixed, compiled, AdamW unfused, embedding tied. "
        f"Ours is timed after {WARM} steps."
    )
    variants: ClassVar[dict[str, Shape]] = {
        "clm-6x384": Shape("gpt2", 6, 384, 8, 256, 1.0, 4, CHARACTERS),
        "clm-6x384-padded": Shape("gpt2", 6, 384, 8, 256, 1.0, 2, PADDED),
        "clm-small": Shape("gpt2", 12, 768, 2, 512, 1.0, 1, PADDED),
    }

    def sides(self, context: Context) -> list[Side]:
        """Ours; nanoGPT and litgpt as they come and at their best."""
        shape = self.variants[context.variant]
        write_model(shape, context.folder / "model")
        write_tokens(shape, context.folder / "tokens.safetensors")
        return [
            self.ours(shape=asdict(shape), model=str(context.folder / "model"), precision=context.precision),
            nanogpt(context, shape, "default", precision="fp32", fused=False),
            nanogpt(context, shape, "best", precision=context.precision, fused=True),
            litgpt(context, shape, "default", precision="bf16-mixed", fused=False, compile=True),
            *(
                litgpt(context, shape, "best", precision=p, fused=True, compile=True)
                for p in ("bf16-mixed", "bf16-true")
            ),
        ]

    def search(self, context: Context) -> Search:
        """litgpt's, from its default."""
        start = litgpt(
            context, self.variants[context.variant], "default", precision="bf16-mixed", fused=False, compile=True
        )
        axes: dict[str, list[Any]] = {
            "precision": ["bf16-mixed", "bf16-true", "32-true"],
            "fused": [False, True],
            "compile": [True, False],
            "chunk": [128, 0],
            "allocator": ["own", "ours"],
        }
        return Search(start, axes)


def nanogpt(context: Context, shape: Shape, setting: Setting, *, precision: str, fused: bool) -> Side:
    """The peer in one setting."""
    options = _common(context, shape) | {
        "shape": shape_of(shape, bias=False),
        "precision": precision,
        "fused": fused,
        "checkout": os.environ.get("PRETUNE_NANOGPT", ""),
    }
    what = "as its README has it (fp32)" if setting == "default" else f"{precision}, AdamW {'' if fused else 'un'}fused"
    return Side(f"nanoGPT {what}", peer("nanogpt"), options, setting=setting)


def litgpt(context: Context, shape: Shape, setting: Setting, *, precision: str, fused: bool, compile: bool) -> Side:
    """The peer in one setting."""
    options = _common(context, shape) | {
        "shape": shape_of(shape),
        "precision": precision,
        "fused": fused,
        "compile": compile,
        "chunk": 128,
    }
    what = f"{precision}, {'compiled' if compile else 'eager'}, AdamW {'' if fused else 'un'}fused"
    return Side(f"litgpt {what}", peer("litgpt"), options, environment="litgpt", setting=setting)


def _common(context: Context, shape: Shape) -> dict[str, Any]:
    return {
        "model": str(context.folder / "model" / "model.safetensors"),
        "inputs": str(context.folder / "tokens.safetensors"),
        "steps": shape.steps,
    }


def shape_of(shape: Shape, **more: Any) -> dict[str, Any]:
    """The sizes as both peers call them."""
    return {**shape.overrides(), "block_size": shape.length, **more}


def write_model(shape: Shape, folder: Path) -> None:
    """Random weights, positions zero."""
    import torch

    from pretune.interop.huggingface import save_model
    from pretune.models import build
    from pretune.nn.embedding import Learned

    fields = {"n_positions": shape.length, "activation_function": "gelu", "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    model = build("gpt2", "small", ["clm"], overrides={**shape.overrides(), **fields})
    position = model.embedding.position
    assert isinstance(position, Learned)
    with torch.no_grad():
        position.weight.zero_()
    save_model(model, folder)


def write_tokens(shape: Shape, path: Path) -> None:
    """The batches as one tensor (batches, sequences, length + 1)."""
    import torch
    from safetensors.torch import save_file

    rows: list[torch.Tensor] = []
    for batch in batches_of(shape)[1]:
        ((_, following),) = batch.targets.values()
        first, then = (run.view(shape.sequences, shape.length) for run in (batch.tokens, following))
        rows.append(torch.cat([first, then[:, -1:]], dim=1))
    save_file({"tokens": torch.stack(rows)}, path)
