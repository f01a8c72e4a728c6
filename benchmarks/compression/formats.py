"""`python -m benchmarks.compression.formats MODEL`: what each format of weights costs, and how small its files are.

Values are rounded to the nearest. A model that writes is judged by its perplexity on the first tokens of a text; one
that does not, by the cosine of its vectors of the text's lines with those of the plain model; one with labels, by its
accuracy on labelled data too. All else is in fp32. `inputs int8` rounds what matmuls read to 8 bits by 32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from cyclopts import App

from pretune import api
from pretune.batch import ragged
from pretune.compress.method import CompressContext, find_compression
from pretune.draw import Draw
from pretune.interop.huggingface import save_model
from pretune.interop.rounded_files import widened
from pretune.model import Model
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import find_language_head
from pretune.nn.rounded import formats_of
from pretune.table import Table

app = App(name="python -m benchmarks.compression.formats", help=__doc__)
CASES = ("bf16", "int8", "int8 int8", "q8_0", "q8_0 int8", "q4_0", "q4_0 int8")
_LINES = 200


@app.default
def measure(
    model: Path,
    *,
    text: Path,
    tokens: int = 1024,
    labelled: Path | None = None,
    cases: Sequence[str] = CASES,
    vocabulary: str | None = None,
) -> None:
    """Print a table.

    Args:
        model: folder or .gguf file.
        text: what perplexity or vectors are measured on.
        tokens: of it, of a model that writes.
        labelled: file of the model's task.
        cases: formats, each perhaps with "int8" behind it for rounded inputs.
        vocabulary: its format, where it is not the usual one.
    """
    plain = api.load(model, "cpu", "fp32")
    judge = Judge(plain, text, tokens, labelled)
    with TemporaryDirectory() as folder:
        size = _bytes(widened(plain.network) if formats_of(plain.network) else plain.network, Path(folder))
    rows: list[tuple[object, ...]] = [("fp32", "1.000", *judge.judge(plain.network))]
    print(Table(judge.columns, rows).text(), flush=True)
    for case in cases:
        name, _, inputs = case.partition(" ")
        settings = {"format": name, "inputs": inputs or "exact", **({"vocabulary": vocabulary} if vocabulary else {})}
        method = find_compression("quantize", settings)
        rounded = method.apply(copy.deepcopy(plain.network), CompressContext(plain.tokenizer, Draw(0))).eval()
        with TemporaryDirectory() as folder:
            share = _bytes(rounded, Path(folder)) / size
        rows.append((case.replace(" ", ", inputs "), f"{share:.3f}", *judge.judge(rounded)))
        print(Table(judge.columns, rows).text(), flush=True)


class Judge:
    """What is measured of each form of a model."""

    def __init__(self, plain: Model, text: Path, tokens: int, labelled: Path | None) -> None:
        self._plain, self._labelled, self._base = plain, labelled, 0.0
        self._writes = find_language_head(plain.network, "next") is not None
        content = text.read_text(encoding="utf-8")
        self._lines = [line.strip() for line in content.splitlines() if len(line) > 40][:_LINES]
        self._ids = np.array(plain.tokenizer.encode(content[: 16 * tokens])[:tokens], dtype=np.int64)
        self._vectors = None if self._writes else plain.embed(self._lines)
        quality = ["perplexity", "more"] if self._writes else ["cosine, least", "mean"]
        self.columns = ["", "file", *quality, *(["accuracy"] if labelled else [])]

    def judge(self, network: LanguageModel) -> list[str]:
        """The values of a row."""
        out = self._perplexity(network) if self._writes else self._cosines(network)
        if self._labelled is not None:
            scores = Model(network, self._plain.tokenizer).evaluate(self._labelled)
            out.append(f"{scores['accuracy']:.4f}")
        return out

    @torch.inference_mode()
    def _perplexity(self, network: LanguageModel) -> list[str]:
        role = find_language_head(network, "next")
        assert role is not None
        batch = ragged([self._ids])
        logits = role(network(batch).last_hidden_state[:-1]).float()
        value = math.exp(float(F.cross_entropy(logits, torch.from_numpy(self._ids[1:]))))
        self._base = self._base or value
        return [f"{value:.3f}", f"{value / self._base - 1:+.2%}"]

    def _cosines(self, network: LanguageModel) -> list[str]:
        assert self._vectors is not None
        ours, theirs = Model(network, self._plain.tokenizer).embed(self._lines), self._vectors
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines = (ours * theirs).sum(1) / norms
        return [f"{cosines.min():.5f}", f"{cosines.mean():.5f}"]


def _bytes(model: LanguageModel, folder: Path) -> int:
    """Bytes of the weights in the files of a model."""
    save_model(model, folder / "model")
    return sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))


if __name__ == "__main__":
    app()
