"""sentence-transformers: SentenceTransformer, CrossEncoder or SparseEncoder, as the model was trained.

A model with one score for a pair of texts (`reranking`) becomes a CrossEncoder, one that was trained for sparse vectors
(`sparse`) a SparseEncoder, any other a SentenceTransformer, with the pooling that its training or its files say, else
the mean. The files are those of transformers with a few beside them, so that `transformers` and pretune read them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pretune.errors import DataError
from pretune.interop.cross_encoder import encoder_class, pair_head
from pretune.interop.export import compare as compare_outputs
from pretune.interop.export import outputs
from pretune.interop.export_target import TargetExport
from pretune.interop.foreign_reader import read_by_transformers
from pretune.interop.huggingface import load_model, write_model
from pretune.interop.recorded_heads import head_sources
from pretune.interop.weights import SHARD_BYTES
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.head_table import weight_map_of
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.wording import quoted

__all__ = ["PACKAGES", "SUFFIX", "TYPES", "compare", "refuse", "use", "write"]

TYPES = ("fp32", "bf16", "fp16")
SUFFIX = ""
PACKAGES: tuple[Sequence[str], str] = ((), "tasks")  # it writes plain files; what is installed reads them
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TOLERANCE = 1e-5


def refuse(export: TargetExport) -> str | None:
    """Says what the files have no place for, and the remedy; None where they can have the model."""
    model = export.model
    if weight_map_of(model.family) is None:
        return f"family {model.family} has no WEIGHT_MAP, so that no other software knows its weights"
    own = [role for role, source in head_sources(model).items() if source != "standard"]
    if own and pair_head(model) is None:
        export.notes.append(f"its head {own[0]!r} is read by pretune alone; vectors do not use it")
    if (
        isinstance(model, EncoderDecoder)
        and not model.is_encoder_alone
        and encoder_class(model) != "SentenceTransformer"
    ):
        return "it has an encoder and a decoder, of which pairs and tokens are not scored there"
    return None


def write(export: TargetExport, path: Path) -> None:
    """Writes the folder."""
    model = export.model
    is_bare = model.vectors is None and pair_head(model) is None
    pooling = model.default_pooling if is_bare else None
    if is_bare:
        export.notes.append(
            f"nothing says how its texts become vectors: the {pooling} of the last layer's rows is taken"
        )
    if dims := _trained_lengths(export):
        cut = f"SentenceTransformer(folder, truncate_dim={dims[-1]})"
        export.notes.append(f"vectors may be cut to {', '.join(map(str, dims))} numbers: {cut}")
    write_model(model, path, export.tokenizer, max_shard_bytes=SHARD_BYTES, dtype=_DTYPES[export.type], pooling=pooling)


def compare(export: TargetExport, path: Path) -> list[str]:
    """Reads the folder again, and has it read by sentence-transformers where that is installed.

    Raises:
        DataError: something differs.
    """
    again = load_model(path, dtype=_DTYPES[export.type]).float().eval()
    difference = compare_outputs(outputs(export.model), outputs(again))
    if export.type == "fp32" and difference > _TOLERANCE:
        raise DataError(f"{path}: outputs of the model that was written differ by {difference:.1e} of their size")
    tokenizer = Tokenizer.load(path)
    if tokenizer.hash != export.tokenizer.hash:
        raise DataError(f"{path}: the tokenizer that was written is another when it is read again")
    foreign = read_by_transformers(path, path, again, tokenizer, export.uses)
    cost = (
        ""
        if export.type == "fp32"
        else f"; rounding to {export.type} changes outputs by {difference:.1e} of their size"
    )
    return [f"{encoder_class(export.model)}{cost}", str(foreign)]


def use(export: TargetExport, path: Path) -> str:
    """Gives a command that uses the result."""
    name = encoder_class(export.model)
    call = "predict([('a query', 'a passage')])" if name == "CrossEncoder" else "encode(['a text'])"
    code = f"import sentence_transformers as s; print(s.{name}({str(path)!r}).{call})"
    return f"python -c {quoted(code)}"


def _trained_lengths(export: TargetExport) -> list[int]:
    """Lengths of vectors for which the model was trained, besides the whole one."""
    task = export.model.metadata.task
    dims = None if task is None else task.config.get("dims")
    known = [dim for dim in dims if isinstance(dim, int)] if isinstance(dims, list | tuple) else []
    return sorted((dim for dim in known if dim < export.model.width), reverse=True)
