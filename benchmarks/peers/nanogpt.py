"""What nanoGPT does on a CPU, written anew from reading its `model.py` and `train.py`; or its own model by a path.

By default: fp32 (its autocast is a null context on a CPU), AdamW without `fused` (which it keeps for CUDA), no biases
(`bias = False` in `train.py`), learned positions, no dropout, SDPA, exact GELU, logits at every position, the
gradient clipped to 1. `setup` times steps on given batches, `recipe` trains by the CPU recipe of its README.

Source: https://github.com/karpathy/nanoGPT at 3adf61e; the recipe is in its README, "I only have a macbook".
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # (in, out) in files of `transformers`
_EVALUATED = 256  # windows in a forward of the evaluation


class Norm(nn.Module):
    """A layer norm whose bias is optional."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., width) -> same."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    """Queries, keys and values of all heads in one product."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (batch, length, width) -> same."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).split(x.shape[2], dim=2)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).contiguous().view(x.shape))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Up, GELU, down."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=bias)
        self.c_proj = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., width) -> same."""
        return self.c_proj(F.gelu(self.c_fc(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer, pre-norm."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.ln_1, self.attn = Norm(width, bias), Attention(width, heads, bias)
        self.ln_2, self.mlp = Norm(width, bias), Mlp(width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (batch, length, width) -> same."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class Network(nn.Module):
    """The model, by the names that a checkout gives its weights."""

    def __init__(self, *, n_layer: int, n_head: int, n_embd: int, block_size: int, vocab_size: int, bias: bool) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(vocab_size, n_embd),
            "wpe": nn.Embedding(block_size, n_embd),
            "h": nn.ModuleList([Block(n_embd, n_head, bias) for _ in range(n_layer)]),
            "ln_f": Norm(n_embd, bias),
        })  # fmt: skip
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                ends_branch = name.endswith("c_proj.weight")
                nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * n_layer) if ends_branch else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and mean loss. Shape: (batch, length) twice -> (batch, length, vocabulary), ()."""
        parts = self.transformer
        x = parts["wte"](tokens) + parts["wpe"](torch.arange(tokens.shape[1]))
        for block in self.transformer["h"].children():
            x = block(x)
        logits = self.lm_head(parts["ln_f"](x))
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def network(shape: dict[str, Any], checkout: str = "") -> Any:
    """The model with random weights.

    Args:
        shape: n_layer, n_head, n_embd, block_size, vocab_size, bias.
        checkout: folder of nanoGPT, whose `model.py` is then used; "" for what is written here.
    """
    if not checkout:
        return Network(**shape)
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(checkout) / "model.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{checkout}: no model.py of nanoGPT")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.GPT(SimpleNamespace(**shape, dropout=0.0))


def adamw(model: nn.Module, lr: float, betas: tuple[float, float], decay: float, fused: bool) -> torch.optim.AdamW:
    """Matrices and embeddings decay, vectors do not."""
    known = list(model.parameters())
    groups = [
        {"params": [p for p in known if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in known if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, **({"fused": True} if fused else {}))


def autocast(precision: str) -> AbstractContextManager[Any]:
    """What a forward runs in: nothing on a CPU, unless bf16 is asked for."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


def step(model: Any, optimizer: torch.optim.Optimizer, tokens: Tensor, targets: Tensor, precision: str) -> float:
    """One iteration of `train.py`; its loss, which is printed at every one."""
    with autocast(precision):
        _, loss = model(tokens, targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.item())


def setup(
    *,
    model: str,
    inputs: str,
    shape: dict[str, Any],
    steps: int,
    precision: str = "fp32",
    fused: bool = False,
    compile: bool = False,
    checkout: str = "",
) -> Callable[[], dict[str, float]]:
    """Steps on given weights and batches.

    Args:
        model: a safetensors file of GPT-2 in the layout of `transformers`; without biases they must be zero.
        inputs: a safetensors file with `tokens` (batches, batch, length + 1).
        shape: see `network`.
        steps: in a run.
        precision: fp32, or bf16 by autocast.
    """
    net = network(shape, checkout)
    load(net, model)
    batches = load_file(inputs)["tokens"]
    losses = {f"loss_{p}": first_loss(net, batches[0], p) for p in {"fp32", precision}}
    optimizer = adamw(net.train(), 1e-4, (0.9, 0.95), 0.1, fused)
    compiled = torch.compile(net) if compile else net
    done = 0

    def run() -> dict[str, float]:
        nonlocal done
        for _ in range(steps):
            batch = batches[done % len(batches)]
            step(compiled, optimizer, batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), precision)
            done += 1
        return {"tokens": float(steps * batches[0, :, 1:].numel()), **losses}

    return run


def load(net: nn.Module, path: str) -> None:
    """Weights of `transformers`' layout."""
    tensors = load_file(path)
    with torch.no_grad():
        own = dict(net.named_parameters())
        for name, tensor in tensors.items():
            if name in own:
                own.pop(name).copy_(tensor.t() if name.endswith(_TRANSPOSED) else tensor)
            elif name != "lm_head.weight" and tensor.any():  # that one is tied
                raise ValueError(f"{path}: {name} is not zero, and this model has no such weight")
    if own:
        raise ValueError(f"{path}: lacks {', '.join(own)}")


@torch.no_grad()
def first_loss(net: Any, batch: Tensor, precision: str) -> float:
    """Before any step."""
    with autocast(precision):
        return float(net(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())[1])


def recipe(
    *,
    data: str,
    shape: dict[str, Any],
    target: float,
    output: str,
    near: float = math.inf,
    iterations: int = 2000,
    batch: int = 12,
    every: int = 50,
    precision: str = "fp32",
    fused: bool = False,
    checkout: str = "",
) -> Callable[[], dict[str, Any]]:
    """Train from random weights until the loss of the validation text is low enough; every run another seed.

    Args:
        data: folder with `train.bin` and `val.bin`, uint16.
        target: of the loss.
        output: folder for the weights that reached it, in the layout of `transformers`.
        near: loss of the text's beginning above which a look does not read the rest.
        iterations: of the schedule, after which training ends.
        batch: windows of an iteration.
        every: iterations between two looks, whose time does not count.
    """
    text = torch.from_numpy(np.fromfile(Path(data) / "val.bin", np.uint16).astype(np.int64))
    runs = 0

    def run() -> dict[str, Any]:
        nonlocal runs
        torch.manual_seed(1337 + runs)
        net = network(shape, checkout)
        optimizer = adamw(net, 1e-3, (0.9, 0.99), 0.1, fused)
        seconds, curve = 0.0, []
        for number in range(iterations + 1):  # `train.py` ends when its count is above `max_iters`
            start = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = rate(number, iterations)
            step(net, optimizer, *draw(Path(data) / "train.bin", shape["block_size"], batch), precision)
            seconds += time.perf_counter() - start
            if (number + 1) % every == 0 or number == iterations:
                loss = look(net, text, shape["block_size"], math.inf if number == iterations else near)
                curve.append((number + 1, seconds, loss))
                if loss <= target:
                    break
        steps, seconds, loss = curve[-1]
        weights = save(net, shape, Path(output) / f"seed-{runs}")
        result = {"seconds": seconds, "steps": steps, "seed": runs, "loss": loss, "curve": curve, "weights": weights}
        runs += 1
        return result

    return run


def save(net: nn.Module, shape: dict[str, Any], folder: Path) -> str:
    """Weights as `transformers` has them; biases that the model lacks are zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {name: tensor.detach() for name, tensor in net.named_parameters()}
    for name, tensor in list(own.items()):
        if name.endswith(".weight") and not name.endswith(("wte.weight", "wpe.weight", "lm_head.weight")):
            own.setdefault(f"{name.removesuffix('weight')}bias", torch.zeros(len(tensor)))
    weights = {
        name: (tensor.t() if name.endswith(_TRANSPOSED) else tensor).contiguous() for name, tensor in own.items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    sizes = {name: shape[name] for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
    fields = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu"}
    config = {**fields, **sizes, "n_positions": shape["block_size"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def rate(number: int, iterations: int, peak: float = 1e-3, minimum: float = 1e-4, warmup: int = 100) -> float:
    """The learning rate: a linear rise, then half a cosine."""
    if number < warmup:
        return peak * (number + 1) / (warmup + 1)
    progress = (number - warmup) / (iterations - warmup)
    return minimum + 0.5 * (1.0 + math.cos(math.pi * progress)) * (peak - minimum)


def draw(path: Path, block: int, batch: int) -> tuple[Tensor, Tensor]:
    """Windows from random places; the file is mapped anew each time, as it does against a leak."""
    text = np.memmap(path, dtype=np.uint16, mode="r")
    places = torch.randint(len(text) - block, (batch,)).tolist()
    tokens, targets = (
        torch.stack([torch.from_numpy(text[i + shift : i + shift + block].astype(np.int64)) for i in places])
        for shift in (0, 1)
    )
    return tokens, targets


def look(net: Any, text: Tensor, block: int, near: float) -> float:
    """The loss of the whole text, if that of its beginning is near enough; else that."""
    loss = evaluate(net, text[: _EVALUATED * block + 1], block)
    return evaluate(net, text, block) if loss <= near else loss


@torch.no_grad()
def evaluate(net: Any, text: Tensor, block: int) -> float:
    """Mean loss over a whole text cut into windows: every token but the first is predicted once."""
    whole = (len(text) - 1) // block
    tokens, targets = text[: whole * block].view(-1, block), text[1 : whole * block + 1].view(-1, block)
    parts = [(tokens[i : i + _EVALUATED], targets[i : i + _EVALUATED]) for i in range(0, whole, _EVALUATED)]
    if rest := (len(text) - 1) % block:
        parts.append((text[-1 - rest : -1][None], text[-rest:][None]))
    total = sum(float(net(x, y)[1]) * y.numel() for x, y in parts)
    return total / (len(text) - 1)
