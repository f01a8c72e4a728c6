"""Training steps of BERT (MLM) and GPT-2 (CLM) against `transformers`, same weights, same tokens, equal first loss.

    python benchmarks/train_step.py                      # every row
    python benchmarks/train_step.py mlm-mini-packed --rounds 7

Both sides multiply in the same format, by default the faster of this machine: bf16 autocast where the CPU has it, else
fp32. The peer has fused AdamW and SDPA, is padded to the longest of the batch, runs with its default attention dropout
and without it, with the C library's allocator and with ours. Only real tokens count. The limit is the best GEMM of that
format on the model's own shapes, measured between the rounds; our share of it counts the FLOPs that our path executes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pairs import OURS, Contestant, Turn, compete, gemm_peak, record, rows_of, show

THREADS = 2
BATCHES = 128  # different ones: more than a run of five rounds takes, so that no shape is met twice by design


@dataclass(frozen=True)
class Work:
    """A model and the lengths of its batch."""

    family: str
    size: dict[str, Any]
    sequences: int
    length: int
    fill: float  # mean length / longest
    steps: int  # in a turn

    def lengths(self, seed: int) -> list[int]:
        """Packed: all alike. Ragged: uniform, one of them the longest."""
        if self.fill == 1.0:
            return [self.length] * self.sequences
        low = max(2, round((2 * self.fill - 1) * self.length))
        drawn = np.random.default_rng(seed).integers(low, self.length + 1, self.sequences)
        drawn[0] = self.length
        return [int(n) for n in drawn]


def _bert(layers: int, width: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
        "vocab_size": 30522,
    }


def _gpt2(layers: int, width: int) -> dict[str, Any]:
    return {"n_layer": layers, "n_embd": width, "n_head": width // 64, "vocab_size": 50257}


WORKS = {
    "mlm-mini-packed": Work("bert", _bert(4, 256), 32, 128, 1.0, 3),
    "mlm-mini-ragged": Work("bert", _bert(4, 256), 32, 128, 0.53, 3),
    "mlm-base-packed": Work("bert", _bert(12, 768), 8, 128, 1.0, 2),
    "mlm-base-ragged": Work("bert", _bert(12, 768), 8, 128, 0.53, 2),
    "clm-6x384-packed": Work("gpt2", _gpt2(6, 384), 8, 256, 1.0, 2),
}


def _vocabulary(size: int) -> Any:
    """A vocabulary with BERT's special tokens first and no text behind it."""
    from pretune.text.vocabulary import Vocabulary

    special = np.zeros(size, bool)
    special[:5] = True
    return Vocabulary(
        size=size, pad=0, unk=1, cls=2, sep=3, mask=4, bos=None, eos=None, special=special,
        continuation=np.zeros(size, bool),
    )  # fmt: skip


def batches_of(work: Work) -> list[Any]:
    """The same batches on both sides, made by pretune's objective."""
    from pretune.draw import Draw
    from pretune.objectives.mixture import build
    from pretune.text.views import Row

    name = "mlm" if work.family == "bert" else "clm"
    objective = build({name: 1.0}, _vocabulary(work.size["vocab_size"]))
    random = np.random.default_rng(0)
    out = []
    for number in range(BATCHES):
        lengths = sorted(work.lengths(number))
        extra = objective.lookahead - objective.overhead
        rows = [
            Row((0, number, i), random.integers(5, work.size["vocab_size"], n + extra)) for i, n in enumerate(lengths)
        ]
        out.append(objective.corrupt(objective.prepare(rows, Draw(1)), Draw(1)))
    return out


def ours(work: Work, folder: str, precision: Literal["bf16", "fp32"]) -> Turn:
    """pretune's own step: what the training loop calls."""
    import torch

    torch.set_num_threads(THREADS)
    from pretune.draw import Draw
    from pretune.interop.huggingface import load_model
    from pretune.objectives.mixture import build
    from pretune.train.flops import Flops
    from pretune.train.optimizer import OptimizerConfig, build_optimizer
    from pretune.train.parallel import World
    from pretune.train.precision import Precision
    from pretune.train.step import Root, Stepper

    role = "mlm" if work.family == "bert" else "clm"
    model = load_model(folder, heads=[role])
    objective = build({role: 1.0}, _vocabulary(work.size["vocab_size"]))
    root = Root(model, objective)
    batches = batches_of(work)
    losses = {p: _first_loss(root.eval(), batches[0], p) for p in {"fp32", precision}}
    root.train()
    optimizer = build_optimizer(root, OptimizerConfig(lr=1e-4))
    device = torch.device("cpu")
    stepper = Stepper(root, optimizer, World(), device, Precision(precision, 0.0, "benchmark"), Draw(0), 1.0)
    flops = Flops(model)
    state = {"step": 0}

    def turn() -> dict[str, float]:
        tokens = work_done = 0.0
        for _ in range(work.steps):
            batch = batches[state["step"] % BATCHES]
            stepper.run(state["step"], [batch], objective.counts(batch), 1e-4)
            state["step"] += 1
            tokens += batch.layout.total
            work_done += flops(batch)
        return {"tokens": tokens, "flops": work_done, **{f"loss_{p}": v for p, v in losses.items()}}

    return turn


def _first_loss(root: Any, batch: Any, precision: str) -> float:
    import torch

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        (term,) = root(batch)
    return float(term.sum) / term.count


def peer(work: Work, folder: str, attention_dropout: float, precision: str) -> Turn:
    """The usual loop around `transformers`: padded batch, full logits, autocast, clipping, fused AdamW."""
    import torch

    torch.set_num_threads(THREADS)
    import transformers

    kind = transformers.BertForMaskedLM if work.family == "bert" else transformers.GPT2LMHeadModel
    field = "attention_probs_dropout_prob" if work.family == "bert" else "attn_pdrop"
    model = kind.from_pretrained(folder, attn_implementation="sdpa", **{field: attention_dropout})
    inputs = [_padded(batch, work) for batch in batches_of(work)]
    losses = {p: _peer_loss(model.eval(), inputs[0][0], p) for p in {"fp32", precision}}
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    state = {"step": 0}

    def turn() -> dict[str, float]:
        tokens = 0.0
        for _ in range(work.steps):
            batch, real = inputs[state["step"] % BATCHES]
            state["step"] += 1
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            tokens += real
        return {"tokens": tokens, **{f"loss_{p}": v for p, v in losses.items()}}

    return turn


def _padded(batch: Any, work: Work) -> tuple[dict[str, Any], int]:
    """A ragged batch as `transformers` wants it; labels -100 where nothing is predicted."""
    import torch

    index, label = next(iter(batch.targets.values()))
    flat = torch.full((batch.layout.total,), -100)
    flat[index] = label
    shift = 0 if work.family == "bert" else 1  # GPT-2 shifts labels by itself, so its input is one token longer
    longest = batch.layout.longest + shift
    tokens = torch.zeros(batch.layout.count, longest, dtype=torch.long)
    labels = torch.full_like(tokens, -100)
    mask = torch.zeros_like(tokens)
    for n, (start, stop) in enumerate(zip(batch.layout.bounds, batch.layout.bounds[1:], strict=False)):
        size = stop - start
        tokens[n, :size] = batch.tokens[start:stop]
        if shift:
            tokens[n, size] = flat[stop - 1]
        labels[n, shift : size + shift] = flat[start:stop]
        mask[n, : size + shift] = 1
    inputs = {"input_ids": tokens, "labels": labels}
    return inputs | ({"attention_mask": mask} if work.fill < 1 else {}), batch.layout.total


def _peer_loss(model: Any, batch: dict[str, Any], precision: str) -> float:
    import torch

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return float(model(**batch).loss)


def _equal(turns: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """The largest difference of first losses; refuses rows that do not train the same thing."""
    mine = turns[OURS][0]
    losses = [name for name in mine if name.startswith("loss_")]
    gaps = {name: max(abs(t[0][name] - mine[name]) for t in turns.values()) for name in losses}
    if gaps["loss_fp32"] > 1e-5 * mine["loss_fp32"] or gaps.get("loss_bf16", 0.0) > 2e-2:
        raise SystemExit(f"first losses differ, the row does not count: {gaps}")
    return gaps


def run(name: str, rounds: int, precision: Literal["bf16", "fp32"]) -> tuple[list[Any], dict[str, Any]]:
    """One work: all contestants, the table's rows and the share of the limit."""
    from pretune.interop.huggingface import save_model
    from pretune.models import build

    work = WORKS[name]
    role = "mlm" if work.family == "bert" else "clm"
    width = work.size.get("hidden_size") or work.size["n_embd"]
    tokens = sum(work.lengths(0))
    shapes = [(tokens, width, width), (tokens, width, 4 * width), (tokens, 4 * width, width)]
    with tempfile.TemporaryDirectory() as folder:
        save_model(
            build(work.family, "base" if work.family == "bert" else "small", [role], overrides=work.size), folder
        )
        sides = {OURS: Contestant(ours, {"work": work, "folder": folder, "precision": precision}, tuned=True)}
        for dropout in (0.1, 0.0):
            for tuned in (False, True):
                allocator = "our" if tuned else "own"
                label = f"transformers {precision}, attention dropout {dropout:g}, {allocator} allocator"
                options = {"work": work, "folder": folder, "attention_dropout": dropout, "precision": precision}
                sides[label] = Contestant(peer, options, tuned)
        found = compete(sides, rounds, between=lambda: gemm_peak(precision, shapes))
    gaps = _equal(found["turns"])
    peaks = found["limit"]
    speeds = [t["flops"] / t["seconds"] for t in found["turns"][OURS]]
    share = statistics.median(s / p for s, p in zip(speeds, peaks, strict=True))
    facts = {
        "share_of_gemm_peak": round(share, 3),
        "gemm_peak_gflops": [round(p / 1e9) for p in peaks],
        "peak_drift": round(max(peaks) / min(peaks) - 1, 3),
        "loss_gap": gaps,
        "peak_mb": {side: round(max(t["peak_mb"] for t in turns)) for side, turns in found["turns"].items()},
    }
    return rows_of(name, found["turns"], "tokens", "tok/s"), facts


def main() -> None:
    """Measure, print and write `results/train_step-*.json`."""
    import torch

    from pretune.train.precision import choose_precision

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", default=[], help=f"of {', '.join(WORKS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    arguments = parser.parse_args()
    precision = choose_precision(arguments.precision, torch.device("cpu"))
    print(f"{precision.name}: {precision.why}")
    rows: list[Any] = []
    facts: dict[str, Any] = {}
    for name in arguments.works or WORKS:
        print(name, flush=True)
        found, facts[name] = run(name, arguments.rounds, precision.name)
        rows += found
        show(found)
        print(f"  share of GEMM peak {facts[name]['share_of_gemm_peak']:.2f}, drift {facts[name]['peak_drift']:.0%}")
    print(record("train_step", rows, precision=precision.name, facts=facts))


if __name__ == "__main__":
    main()
