"""The verb that exports a model: export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pretune.cli.loading import OfBase, OfStep, load_model
from pretune.cli.session import DEFAULT, Common, Session
from pretune.errors import UsageError
from pretune.wording import counted, quoted

_DTYPES: Mapping[str, Literal["fp32", "bf16", "fp16"]] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
_ADAPTERS: Mapping[str, Literal["peft", "adapters"]] = {"peft": "peft", "adapters": "adapters"}
Pooling = Literal["mean", "cls", "last", "max", "weightedmean", "mean_sqrt_len_tokens"]


def export(
    model: Path,
    output: Path,
    /,
    *,
    format: str = "fp32",
    type: str | None = None,
    max_shard_gb: float = 5.0,
    pooling: Pooling | None = None,
    step: OfStep = None,
    base: OfBase = None,
    session: Common = DEFAULT,
) -> None:
    """Export a model to the files of `transformers` or for another engine, read them back and compare.

    It reports success only if every weight, the outputs and the tokenizer are the same. Where transformers is
    installed, it opens the result too, in a process of its own, and must give the same token ids, outputs and greedy
    texts; where it is not, nothing is claimed of it.

    Args:
        model: folder of a model, or a .gguf file.
        output: folder to write: a new or an empty one, or one with an earlier export of this model and nothing else;
            for gguf a new file.
        format: dtype of the weights in the files: fp32, bf16 or fp16; or peft or adapters, which write what a tuning
            method learned and not its base, as an adapter that this library opens; or another engine's files: gguf
            (llama.cpp), onnx, ctranslate2, compressed-tensors (transformers, vLLM), sentence-transformers (the class
            that fits the task), or a .py file of your own that writes them.
        type: of the weights in another engine's files, such as f32, int8, q8_0 or q4_0; by default as they are stored,
            else the engine's usual one.
        max_shard_gb: maximal size of one weight file, in GB.
        pooling: write the files of sentence-transformers too, with this pooling in place of the model's own modules;
            by default with those, if the model was trained for vectors or its files name some.
    """
    if max_shard_gb <= 0:
        raise UsageError(f"--max-shard-gb {max_shard_gb}: expected more than 0")
    if format not in _DTYPES:
        if pooling is not None:
            raise UsageError(f"--pooling: --format {format} has the pooling of the model's own files; leave it out")
        if (library := _ADAPTERS.get(format)) is not None and type is None:
            _export_adapter(library, model, output, step, base, session)
            return
        _export_for(format, model, output, type, step, base, session)
        return
    if type is not None:
        raise UsageError(f"--type {type}: is for the files of another engine, such as --format gguf; leave it out")
    session.say(f"exporting {model} for transformers -> {output}")
    loaded = load_model(model, session, "fp32", step, device="cpu", base=base)
    size = max(1, int(max_shard_gb * 1e9))
    result = loaded.export(output, format=_DTYPES[format], max_shard_bytes=size, pooling=pooling)
    cost = f"; rounding to {format} changes outputs by {result.difference:.1e} of their size"
    cost = "" if format == "fp32" else cost
    compared = f"{counted(result.weights, 'weight')} and {counted(result.outputs, 'output')}"
    session.say(f"done: read back and compared {compared}, all equal{cost}\n{result.foreign}")
    code = f"import transformers; print(transformers.AutoModel.from_pretrained({str(output)!r}))"
    session.say(f"next: python -c {quoted(code)}")


def _export_for(
    name: str, model: Path, output: Path, type: str | None, step: str | None, base: Path | None, session: Session
) -> None:
    """Writes the files of another engine."""
    from pretune.interop.export_target import find_target

    find_target(name)  # a wrong name is refused before anything is loaded
    session.say(f"exporting {model} for {name} -> {output}")
    loaded = load_model(model, session, "fp32", step, device="cpu", base=base)
    result = loaded.export_for(name, output, type)
    for note in result.notes:
        session.say(f"note: {note}")
    size = f"{result.size / 1e6:,.1f} MB of {result.type}"
    session.say(f"done: {size}, read back and compared, all equal: {'; '.join(result.compared)}")
    session.say(f"next: {result.use}")


def _export_adapter(
    library: Literal["peft", "adapters"],
    model: Path,
    output: Path,
    step: str | None,
    base: Path | None,
    session: Session,
) -> None:
    """Writes an adapter of another library, and says how it is opened."""
    session.say(f"exporting {model} for {library} -> {output}")
    result = load_model(model, session, "fp32", step, device="cpu", base=base).export_adapter(output, library)
    heads = f" and the head ({', '.join(result.heads)})" if result.heads else ""
    tensors = counted(result.adapters, "tensor")
    session.say(f"done: {tensors} of {result.kind}{heads}, read back on the base and compared, all equal")
    for note in result.notes:
        session.say(note)
    session.say(f"next: python -c {quoted(result.use)}")
