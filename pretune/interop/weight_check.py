"""Compares the weights in a model's files with the model that `config.json` describes, and refuses what would be lost.

`transformers` unties an output layer that the files hold for themselves, ties one that they lack where `config.json`
says so, and drops with a warning what its class has no place for. The first two are done here as well; weights on
which results hang are refused instead of dropped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from pretune.batch import Layout
from pretune.errors import DataError
from pretune.interop.description import Description
from pretune.interop.weight_names import FileTable, body_prefixes, file_names, plain_name
from pretune.models.head_table import weight_map_of
from pretune.models.model import LanguageModel, get_family
from pretune.models.weight_map import Weight
from pretune.nn.embedding import Sinusoidal

_ADAPTERS = ("lora_", ".ia3_", ".vera_lambda_", ".modules_to_save.", ".base_layer.", "prompt_encoder.")
_QUANTIZED = (".SCB", ".absmax", ".quant_map", ".qweight", ".qzeros", ".scales", ".weight_scale", ".weight_scale_inv")
_WRAPPERS: Mapping[str, str] = {
    "module.": "DataParallel leaves them",
    "_orig_mod.": "torch.compile leaves them",
    "base_model.model.": "a PEFT model leaves them",
}
_CLOSE = 1e-5
"""How far positions of a file may lie from the sines that are computed here, where the file does not round them."""


def tie_as_in_files(description: Description, table: FileTable) -> None:
    """Ties or unties the output layer as the files have it, whatever `config.json` says.

    An output layer of the files that differs from the embedding is used; one that they lack is the embedding where
    `config.json` says so, or where the family has no other.

    Raises:
        DataError: an output layer of another shape than the embedding.
    """
    weights = weight_map_of(description.family)
    if weights is None:
        return
    embedding = _first(table, [weight for weight in weights if weight.ours == "embedding.word.weight"])
    output = _first(table, [weight for weight in weights if is_output(weight)])
    tied = description.config.tie_word_embeddings
    if tied and output is not None and embedding is not None:
        tied = equal(table, embedding, output)
        if not tied:
            description.notes.append(
                f"{table.where}: weight {output!r} is another than the embedding {embedding!r}, and is used, though "
                "config.json says tie_word_embeddings"
            )
    elif not tied and output is None and getattr(get_family(description.family), "ALWAYS_TIED", False):
        tied = True
    if tied != description.config.tie_word_embeddings:
        description.config = description.config.model_copy(update={"tie_word_embeddings": tied})


def is_output(weight: Weight) -> bool:
    """Whether a weight is an output layer over the vocabulary, which may be the embedding."""
    return weight.alias and weight.ours.startswith("heads.") and weight.ours.endswith(".weight")


def equal(table: FileTable, one: str, other: str) -> bool:
    """Whether two tensors of the files have the same values.

    Raises:
        DataError: they differ in shape.
    """
    shapes = table.weights.shapes
    if shapes[one] != shapes[other]:
        raise DataError(
            f"{table.where}: weight {other!r} has shape {list(shapes[other])}, and {one!r}, which it repeats or stands "
            f"for, {list(shapes[one])}; the files are not of one model"
        )
    first, second = table.weights.read(one), table.weights.read(other)
    return torch.equal(first, second) if first.dtype == second.dtype else torch.equal(first.float(), second.float())


def check_copies(table: FileTable, model: LanguageModel) -> None:
    """Checks that what stands in the files twice and is one weight here is the same.

    Raises:
        DataError: two embeddings, or positions that are not the sines that are computed here.
    """
    names: dict[str, list[str]] = {}
    for ours, theirs, _ in file_names(model):
        name = table.locate(theirs)
        if name is not None and not ours.startswith("heads.") and name not in names.setdefault(ours, []):
            names[ours].append(name)
    for ours, (first, *others) in ((ours, each) for ours, each in names.items() if each):
        for other in others:
            if ours != "embedding.position" and not _shares(ours, model) and not equal(table, first, other):
                raise DataError(
                    f"{table.where}: weight {other!r} is another than {first!r}, and this {model.family} has one for "
                    "both; save the model with shared embeddings, or read it with transformers"
                )
    position = model.embedding.position
    if isinstance(position, Sinusoidal):
        for name in names.get("embedding.position", ()):
            _check_sines(table, name, position)


def _shares(ours: str, model: LanguageModel) -> bool:
    """Whether a tensor of the files holds other parameters too, so that its names are not of one weight."""
    return ours not in {name for name, _ in model.named_parameters(remove_duplicate=False)}


def _check_sines(table: FileTable, name: str, position: Sinusoidal) -> None:
    stored = table.weights.read(name)
    values = stored.float()
    if tuple(values.shape) != (position.max_length, position.width):
        raise DataError(
            f"{table.where}: weight {name!r} has shape {list(values.shape)}, config.json asks for "
            f"{[position.max_length, position.width]}; the two files are not of the same model"
        )
    expected = position(Layout.of([len(values)]).positions)
    if float((values - expected).abs().max()) > max(_CLOSE, 2 * torch.finfo(stored.dtype).eps):
        raise DataError(
            f"{table.where}: weight {name!r} holds other positions than the sines that this family has; positions "
            "that were learned are not built for it"
        )


def check_left_over(
    table: FileTable, model: LanguageModel, left_over: Collection[str], overrides: Collection[str]
) -> None:
    """Refuses weights without a place in the model on which its results would hang.

    Args:
        overrides: fields that the user changed; a number of layers among them drops the others' weights knowingly.

    Raises:
        DataError: of an adapter, of quantization, of a layer or a part that `config.json` does not have.
    """
    layers = _layer_patterns(model)
    known: dict[str, list[str]] = {}
    for ours, theirs, _ in file_names(model):
        known.setdefault(plain_name(theirs, table.prefixes), []).append(ours)
    for name in left_over:
        plain = plain_name(name, table.prefixes)
        if any(part in name for part in _ADAPTERS):
            reason = "is of an adapter; merge it into the model first (peft: merge_and_unload), and save that"
        elif name.endswith(_QUANTIZED):
            reason = "is of a quantized model; save the model without quantization first"
        elif any(name.startswith(prefix) for prefix in _WRAPPERS):
            reason = f"begins with a prefix; {wrapper_hint(table, model)}"
        elif any(_is_part(ours, model) for ours in known.get(plain, ())):
            reason = "has no place in the model that config.json describes; correct config.json, or remove it"
        elif not any("layer" in field for field in overrides) and any(layer.fullmatch(plain) for layer in layers):
            reason = (
                "is of a layer that config.json does not have; correct its number of layers, or remove the "
                "weights of the other layers from the files"
            )
        else:
            continue
        raise DataError(f"{table.where}: weight {name!r} {reason}")


def wrapper_hint(table: FileTable, model: LanguageModel) -> str:
    """Names a prefix that all weights of the files have and that hides them; nothing where there is none."""
    plain = {plain_name(theirs, table.prefixes) for _, theirs, _ in file_names(model)}
    matches: Counter[str] = Counter()
    for name in table.weights.shapes:
        parts = name.split(".")
        for count in range(1, min(4, len(parts))):
            prefix = ".".join(parts[:count]) + "."
            if prefix not in table.prefixes and plain_name(name.removeprefix(prefix), table.prefixes) in plain:
                matches[prefix] += 1
    if not matches:
        return ""
    prefix = max(matches, key=lambda each: matches[each])
    cause = next((text for start, text in _WRAPPERS.items() if prefix.startswith(start)), "a wrapper may leave them")
    return (
        f"the names in the files begin with {prefix!r}, as {cause}; save the model inside the wrapper, or remove "
        "the prefix from the names"
    )


def _is_part(ours: str, model: LanguageModel) -> bool:
    """Whether a name is of the body as it is built, or of a head that the model has."""
    if ours.startswith("heads."):
        return ours.split(".")[1] in model.heads
    return not getattr(model, "is_encoder_alone", False) or ours.startswith("encoder.")


def _layer_patterns(model: LanguageModel) -> Sequence[re.Pattern[str]]:
    """Patterns of the names of the layers' weights, whatever their number."""
    prefixes = body_prefixes(model.family)
    patterns = []
    for weight in weight_map_of(model.family) or ():
        if ".{}" in weight.ours and _is_part(weight.ours, model):
            plain = plain_name(weight.theirs, prefixes)
            patterns.append(re.compile(re.escape(plain).replace(r"\{\}", r"\d+")))
    return patterns


def _first(table: FileTable, weights: Sequence[Weight]) -> str | None:
    names: Iterator[str | None] = (table.locate(weight.theirs) for weight in weights)
    return next((name for name in names if name is not None), None)


def zero_if_absent(model: LanguageModel) -> set[str]:
    """Lists the weights that are zero where the files lack them, so that nothing is lost."""
    return {ours for ours, _, weight in file_names(model) if weight.optional}
