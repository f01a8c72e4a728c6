"""Writes a tuned model as a plain one: what the method learned is added to the base, and the result compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pretune.errors import CannotCreateError, DataError, UsageError
from pretune.evaluate.read import Source, finalize_tasks, is_tuned, merged, read_with_tokenizer
from pretune.interop.export import compare, outputs
from pretune.interop.huggingface import save_model
from pretune.models.flops import count_parameters
from pretune.new_folder import contents, settle
from pretune.nn.rounded import formats_of

_TOLERANCE = 1e-4  # of the largest output: sums of matrices are rounded once more


@dataclass(frozen=True)
class Merged:
    """What was written and compared.

    Attributes:
        weights: numbers of the plain model.
        difference: largest distance of two outputs, merged and not, as a fraction of the largest value.
        widened: matrices of the base that were rounded and are in fp32 now.
    """

    weights: int
    difference: float
    widened: int = 0


def merge_folder(source: Source, output: Path) -> Merged:
    """Writes the plain model that computes what deltas, or an adapter of PEFT, on their base compute.

    Raises:
        UsageError: a whole model, or a method that cannot be merged.
        DataError: damaged files, another base, or the merged model computes something else.
        CannotCreateError: the folder holds something.
    """
    if not is_tuned(source.files):
        raise UsageError(f"{source.folder}: is a whole model, and nothing is to be merged; use it as it is")
    settle(output)
    if output.is_dir() and contents(output):
        raise CannotCreateError(f"{output}: holds something already; give a new or empty folder")
    network, tokenizer = read_with_tokenizer(source, None)
    tuned = outputs(network.eval())
    rounded = sum(formats_of(network).values())
    plain = merged(network, source.files).eval()
    difference = compare(tuned, outputs(plain))
    if difference > _TOLERANCE:
        raise DataError(
            f"{source.folder}: the merged model's outputs differ by {difference:.1e} of their size; nothing was written"
        )
    finalize_tasks(plain, source.files, tokenizer)
    save_model(plain, output, tokenizer)
    return Merged(count_parameters(plain), difference, rounded - sum(formats_of(plain).values()))
