"""`python -m benchmarks.reranking.splade all-scores|blocks [--bias B]`: memory and CPU time of SPLADE's scores.

`all-scores` holds the scores of all rows, as autograd does; `blocks` is `pretune.nn.splade`. A lower bias leaves fewer
weights. One process each, as memory is its largest since it began; one thread.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Literal

import torch
from cyclopts import App

from pretune.nn.splade import largest_scores, saturate

app = App(name="python -m benchmarks.reranking.splade", help=__doc__)


@app.default
def main(
    side: Literal["all-scores", "blocks"], *, texts: int = 16, length: int = 64, vocabulary: int = 30522,
    width: int = 384, bias: float = 0.0,
) -> None:  # fmt: skip
    """Measure one side.

    Args:
        side: who makes the weights.
        texts, length: of a batch, in texts and tokens.
        vocabulary, width: of the table.
        bias: added to all scores: -3.5 leaves about one weight in a hundred.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(texts * length, width, generator=generator).requires_grad_()
    table = (0.05 * torch.randn(vocabulary, width, generator=generator)).requires_grad_()
    shift = (0.1 * torch.randn(vocabulary, generator=generator) + bias).requires_grad_()
    weights = torch.randn(vocabulary, 8, generator=generator)
    before, began = _peak(), time.process_time()
    if side == "blocks":
        vectors = saturate(largest_scores(rows, table, shift, range(0, texts * length + 1, length)))
    else:
        vectors = torch.log1p((rows @ table.t() + shift).view(texts, length, -1).relu()).amax(dim=1)
    forward = time.process_time() - began
    (vectors @ weights).square().sum().backward()  # type: ignore[no-untyped-call]
    backward = time.process_time() - began - forward
    share = float((vectors > 0).float().mean())
    print(
        f"{side}: {share:.1%} of the weights are there; forward {forward:.2f} s, backward {backward:.2f} s of CPU, "
        f"{_peak() - before:.0f} MB",
        file=sys.stdout,
    )


def _peak() -> float:
    """The largest memory of the process since it began, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    app()
