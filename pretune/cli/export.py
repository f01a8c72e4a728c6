"""The verb that writes a model for others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pretune.cli.session import DEFAULT, Common
from pretune.errors import UsageError


def export(
    model: Path,
    output: Path,
    /,
    *,
    format: Literal["fp32", "bf16", "fp16"] = "fp32",
    max_shard_gb: float = 5.0,
    pooling: Literal["mean", "cls", "last"] | None = None,
    session: Common = DEFAULT,
) -> None:
    """Write a model in the files of `transformers`, read them again and compare.

    It says done only after every weight, the outputs and the tokenizer were found to be the same.

    Args:
        model: folder of a model, or a .gguf file.
        output: folder to write.
        format: of the weights in the files.
        max_shard_gb: of one file of weights, in GB.
        pooling: write what sentence-transformers reads too: the vector of a text is this of its rows. By default as
            the model was trained for vectors, if it was.
    """
    if max_shard_gb <= 0:
        raise UsageError(f"--max-shard-gb {max_shard_gb}: give more than 0")
    session.start()
    session.say(f"writing {model} for transformers -> {output}")
    from pretune import api

    loaded = api.load(model, device=session.device or "cpu", precision="fp32")
    found = loaded.export(output, format=format, max_shard_bytes=max(1, int(max_shard_gb * 1e9)), pooling=pooling)
    cost = "" if format == "fp32" else f"; rounding to {format} moves outputs by {found.difference:.1e} of their size"
    session.say(f"done: read again and compared {found.weights:,} weights and {found.outputs} outputs, all equal{cost}")
    session.say(
        f'next: python -c "import transformers; print(transformers.AutoModel.from_pretrained({str(output)!r}))"'
    )
