"""pytorch-crf on padded sequences: its loss with the gradients of scores and transitions, or its best labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def setup(*, path: str, work: str, repeats: int) -> Callable[[], dict[str, Any]]:
    """Read and pad the sequences; a run goes over them some times.

    Args:
        path: a safetensors file with scores, labels, lengths and transitions.
        work: `loss` or `labels`.
        repeats: passes of a run.
    """
    import torch
    from safetensors.torch import load_file
    from torch.nn.utils.rnn import pad_sequence
    from torchcrf import CRF

    arrays = load_file(path)
    lengths = arrays["lengths"].tolist()
    scores, labels = (pad_sequence(list(torch.split(arrays[name], lengths))) for name in ("scores", "labels"))
    mask = torch.arange(max(lengths))[:, None] < arrays["lengths"]
    scores.requires_grad_()
    brick = CRF(scores.shape[2])
    with torch.no_grad():
        brick.start_transitions.copy_(arrays["first"])
        brick.transitions.copy_(arrays["between"])
        brick.end_transitions.copy_(arrays["last"])
    variables = [scores, brick.start_transitions, brick.transitions, brick.end_transitions]

    def compute() -> list[float]:
        if work == "labels":
            return [label for sequence in brick.decode(scores, mask) for label in sequence]
        loss = -brick(scores, labels, mask)
        grads = torch.autograd.grad(loss, variables)
        return [loss.item(), *(grad.norm().item() for grad in grads)]

    def run() -> dict[str, Any]:
        for _ in range(repeats):
            results = compute()
        return {"tokens": float(repeats * sum(lengths)), "results": results}

    return run
