"""Attention in a window, forward and backward, against our fastest full attention; and ModernBERT's training step.

`bands` is one attention call of 12 heads of 64 that sees 128 tokens on each side, beside the fastest of our backends
for attention to everything, which does other work: the ratio says what the window saves. `modernbert` is a whole step
of a ModernBERT of 6 layers, two of them global, ours alone: `python -m benchmarks.builds` compares it with another
checkout that has this file. Tests compare what is computed with attention by its definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from benchmarks.benchmark import OURS, Benchmark, Context, Limits, Run, Side

HEADS, HEAD_WIDTH, REACH = 12, 64, 128


@dataclass(frozen=True)
class Work:
    """What is run over one sequence of a length."""

    what: Literal["bands", "modernbert"]
    length: int


class Window(Benchmark):
    """Tokens through an attention, or through a step."""

    about = (
        "Attention of one sequence in a window of 128 tokens on each side, forward and backward, 12 heads of 64, "
        "against our fastest full attention; and a training step of a ModernBERT of 6 layers, 768 wide, on one long "
        "sequence."
    )
    variants: ClassVar[Mapping[str, Work]] = {
        **{f"bands-{length}": Work("bands", length) for length in (1024, 2048, 4096, 8192)},
        **{f"modernbert-{length}": Work("modernbert", length) for length in (4096, 8192)},
    }

    def sides(self, context: Context) -> list[Side]:
        """The window, and full attention by either backend; a step of ModernBERT has no other side."""
        work = self.variants[context.variant]
        common = {"length": work.length, "precision": context.precision}
        if work.what == "modernbert":
            return [Side(OURS, self.script, common, "setup_step", allocator="ours")]
        full = [
            Side(f"full attention, {name}", self.script, {**common, "backend": name}, setting="best")
            for name in ("flash", "matmul")
            if name == "flash" or context.precision == "bf16"
        ]
        return [self.ours(**common, backend=None), *full]

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """Milliseconds of a run at its best."""
        return {"milliseconds": round(1e3 * min(run["seconds"] for run in runs), 1)}

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as a sentence."""
        return [f"ours at its best: {facts['milliseconds']} ms"]


def setup(*, length: int, precision: str, backend: str | None) -> Callable[[], dict[str, Any]]:
    """One attention call and its gradients, in a window, or full by a backend."""
    import torch

    from pretune.batch import Layout
    from pretune.nn.attention import ragged_attention
    from pretune.nn.call import AttentionCall
    from pretune.nn.structure import BIDIRECTIONAL, SlidingWindow

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.manual_seed(0)
    query, key, value, weight = (torch.randn(length, HEADS, HEAD_WIDTH).to(dtype) for _ in range(4))
    layout, runs = Layout.of([length]), [run.requires_grad_() for run in (query, key, value)]
    query, key, value = runs
    structure = SlidingWindow(REACH, REACH) if backend is None else BIDIRECTIONAL
    call = AttentionCall(query, key, value, layout, layout, structure, 0.0, HEAD_WIDTH**-0.5)

    def run() -> dict[str, Any]:
        torch.autograd.grad(ragged_attention(call, backend), runs, weight)
        return {"tokens": float(length)}

    return run


def setup_step(*, length: int, precision: str) -> Callable[[], dict[str, Any]]:
    """A step of masked language modelling, with AdamW, on random tokens."""
    import torch

    from pretune.batch import Batch, Layout
    from pretune.models import build
    from pretune.nn.heads import VocabularyHead

    sizes = {"hidden_size": HEADS * HEAD_WIDTH, "num_attention_heads": HEADS, "intermediate_size": 1152}
    model = build("modernbert", "base", ["mlm"], overrides={"num_hidden_layers": 6, "vocab_size": 8000, **sizes})
    head = model.train().heads["mlm"]
    assert isinstance(head, VocabularyHead)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, 8000, (length,), generator=generator)
    index = torch.arange(0, length, 7)

    def run() -> dict[str, Any]:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            hidden = model(Batch(tokens, Layout.of([length]))).last_hidden_state
            loss, _ = head.loss(hidden[index], tokens[index])
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return {"tokens": float(length), "loss": float(loss.detach())}

    return run
