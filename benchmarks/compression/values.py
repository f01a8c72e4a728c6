"""`python -m benchmarks.compression.values MODEL`: what formats, and ways to choose values, cost a language model.

The loss is that of held-out text, in fp32 of everything but what is rounded. Ways that measure inputs read other text.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from cyclopts import App

from pretune.compress.calibration import Calibration, CalibrationConfig, read_calibration
from pretune.compress.method import CompressContext
from pretune.compress.quantize import Config, apply
from pretune.draw import Draw
from pretune.evaluate.read import find_source, read_with_tokenizer
from pretune.models.model import LanguageModel
from pretune.runtime.device import inference_context
from pretune.runtime.precision import choose_precision
from pretune.table import Table

app = App(name="python -m benchmarks.compression.values", help=__doc__)
CASES = ("q8_0 rtn", "int8 rtn", "q4_0 rtn", "q4_0 hqq", "q4_0 imatrix", "q4_0 awq", "q4_0 gptq")


@app.default
def measure(
    model: Path,
    *,
    held_out: Path,
    calibration: Path,
    tokens: int = 8192,
    test_tokens: int = 16384,
    keep: Sequence[str] = (),
    cases: Sequence[str] = CASES,
) -> None:
    """Print a table of losses.

    Args:
        model: folder or .gguf file of a causal language model.
        held_out: text on which the loss is measured.
        calibration: other text, for ways that measure inputs.
        tokens: of it.
        test_tokens: of the held-out text.
        keep: places that stay as they are.
        cases: formats with their values, such as "q4_0 gptq".
    """
    plain, tokenizer = read_with_tokenizer(find_source(model), None)
    plain.eval()
    half = choose_precision("auto", torch.device("cpu")).name == "bf16"
    texts = [
        read_calibration(plain, tokenizer, CalibrationConfig(data=(str(path),), tokens=count), Draw(seed), model)
        for path, count, seed in ((held_out, test_tokens, 7), (calibration, tokens, 0))
    ]
    base = _loss(plain, texts[0], half)
    rows: list[tuple[object, ...]] = [("as it is", f"{base:.4f}", "", "", "", "")]
    for case in cases:
        format, values = case.split()
        rounded, began = copy.deepcopy(plain), time.process_time()
        reads = values not in ("rtn", "hqq")
        context = CompressContext(tokenizer, Draw(0), texts[1] if reads else None, half=half)
        apply(rounded, Config(format=format, values=values, keep=tuple(keep)), context)
        seconds = time.process_time() - began
        loss = _loss(rounded, texts[0], half)
        errors = [float(facts["error"]) for facts in context.facts.values() if "error" in facts]
        mean = f"{sum(errors) / len(errors):.4f}" if errors else ""
        cost = f"{math.exp(loss - base) - 1:+.2%}"
        rows.append((case, f"{loss:.4f}", f"{loss - base:+.4f}", cost, mean, f"{seconds:.0f}"))
        print(Table(["", "loss", "more", "perplexity", "mean error of outputs", "CPU s"], rows).text(), flush=True)


def _loss(model: LanguageModel, text: Calibration, half: bool) -> float:
    """Nats a token."""
    assert text.objective is not None  # a language model's
    total, count = 0.0, 0
    with inference_context(model.device, half):
        for batch in text.batches:
            for term in text.objective(model, batch):
                total, count = total + float(term.sum), count + term.count
    return total / count


if __name__ == "__main__":
    app()
