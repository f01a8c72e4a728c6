"""Reads and writes what an adapter's files hold of the base's own weights: heads, biases, `modules_to_save`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pretune.errors import DataError
from pretune.interop.peft.contents import ROOT, Contents
from pretune.interop.weight_names import ClassNames, body_prefixes, file_names, plain_name
from pretune.models.model import LanguageModel
from pretune.models.weight_map import Weight, join
from pretune.nn.heads import VocabularyHead
from pretune.nn.vocabulary import Vocabulary

_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save)(?=\.)")
_WORD = "embedding.word.weight"


@torch.no_grad()
def read(model: LanguageModel, contents: Contents) -> list[nn.Parameter]:
    """Fills the weights of a model whose adapters are not yet there.

    Args:
        contents: all that is left in it is read.

    Returns:
        What has other values than before, and so had learned.

    Raises:
        DataError: a tensor that no weight of the model is.
    """
    tensors = _plain_tensors(model, contents)
    changed = _read_vocabularies(model, tensors, contents)
    parameters = dict(model.named_parameters())
    prefixes = body_prefixes(model.family)
    used: set[str] = set()
    filled = {id(parameter) for parameter in changed}
    for ours, theirs, weight in file_names(model):
        name = plain_name(theirs, prefixes)
        if name not in tensors or ours not in parameters:
            continue
        value = _fitting(name, tensors[name], weight, parameters[ours], model, contents)
        if not torch.equal(parameters[ours], value):
            parameters[ours].copy_(value)
            changed.append(parameters[ours])
        filled.add(id(parameters[ours]))
        used.add(name)
    if odd := sorted(tensors.keys() - used):
        raise contents.damaged(f"tensor {odd[0]!r} is no weight of this base, and {len(odd) - 1} more are none")
    if model.loaded is not None:
        names = [name for name, parameter in model.named_parameters() if id(parameter) in filled]
        model.loaded.initialised = [name for name in model.loaded.initialised if name not in names]
    return changed


def _plain_tensors(model: LanguageModel, contents: Contents) -> dict[str, Tensor]:
    """The tensors by their plain names in the base; those that an adapter replaced are left out."""
    out: dict[str, Tensor] = {}
    prefixes = body_prefixes(model.family)
    for name in [*contents.tensors]:
        tensor = contents.tensors.pop(name)
        if ".original_module." in name:
            continue
        plain = base_name(name, prefixes)
        if ".modules_to_save." in name or plain not in out:
            out[plain] = tensor
    return out


def base_name(name: str, prefixes: Sequence[str]) -> str:
    """The plain name in the base of a tensor that is no adapter's."""
    return plain_name(_WRAPPERS.sub("", name.removeprefix(ROOT).removeprefix("base_model.")), prefixes)


def _fitting(
    name: str, tensor: Tensor, weight: Weight, parameter: Tensor, model: LanguageModel, contents: Contents
) -> Tensor:
    expected = weight.file_shape(parameter, model.config)
    if tuple(tensor.shape) != expected:
        hint = "; the vocabulary was extended before it was tuned: extend that of the base alike"
        where = f"tensor {name!r} has shape {list(tensor.shape)}, the base asks for {list(expected)}"
        raise contents.damaged(where + (hint if len(tensor) > expected[0] and "embed" in name else ""))
    return weight.read(tensor, model.config)


def _read_vocabularies(model: LanguageModel, tensors: dict[str, Tensor], contents: Contents) -> list[nn.Parameter]:
    """Gives the embedding and the head tables of their own where the files have other values for each.

    PEFT copies a module that it saves, so that a head that was tied to the embedding no longer is.
    """
    prefixes = body_prefixes(model.family)
    names = {plain_name(theirs, prefixes): (ours, weight) for ours, theirs, weight in file_names(model)}
    heads = {
        f"heads.{role}.weight": head
        for role, head in model.heads.items()
        if isinstance(head, VocabularyHead) and head.is_tied(model.embedding.word)
    }
    if not heads or not isinstance(model.embedding.word, Vocabulary):
        return []
    table = model.embedding.word.weight
    by_path: dict[str, tuple[str, Tensor]] = {}
    for name, (ours, weight) in names.items():
        if name in tensors and (ours in heads or ours == _WORD):
            value = _fitting(name, tensors[name], weight, table, model, contents)
            if torch.equal(value, table):
                del tensors[name]  # a copy of the base, which PEFT keeps beside an adapter of a vocabulary
            else:
                by_path[ours] = (name, value)
    if not by_path:
        return []
    values = [value for _, value in by_path.values()]
    together = bool(contents.fields.get("ensure_weight_tying")) or len(by_path) == len(heads) + 1
    if together and all(torch.equal(value, values[0]) for value in values):
        for name, _ in by_path.values():
            del tensors[name]
        table.copy_(values[0])
        return [table]
    if model.has_encoder and _WORD in by_path:
        raise DataError(
            f"{contents.where}: {by_path[_WORD][0]!r} is saved apart from the head and the other side's embedding, "
            "which here are one table; save all of them with ensure_weight_tying"
        )
    filled = []
    for ours, (name, value) in by_path.items():
        del tensors[name]
        vocabulary = Vocabulary.of(nn.Parameter(value.clone()))
        filled.append(vocabulary.weight)
        if ours == _WORD:
            model.embedding.word = vocabulary
        else:
            heads[ours].tie(vocabulary)
    untie(model)
    return filled


def untie(model: LanguageModel) -> None:
    """Notes in the configuration that the head no longer multiplies by the embedding's table."""
    model.config = model.config.model_copy(update={"tie_word_embeddings": False})


def write(plain: LanguageModel, learned: Mapping[int, Tensor], contents: Contents) -> None:
    """Adds the weights of heads and biases that learned, with the names of their modules.

    Args:
        plain: the model without adapters.
        learned: its parameters that learned, by their `id`.

    Raises:
        DataError: a weight that PEFT's files have no place for.
    """
    in_class = ClassNames(plain)
    parameters = dict(plain.named_parameters(remove_duplicate=False))
    chosen: dict[str, list[tuple[Weight, Tensor]]] = {}
    written: set[int] = set()
    for ours, theirs, weight in file_names(plain):
        if ours in parameters and id(parameters[ours]) in learned:
            if theirs == ours:
                raise DataError(
                    f"{ours}: no transformers class has this head, so that PEFT's files have no name for it; export "
                    "the merged model, or keep the run's own folder"
                )
            if not (weight.alias and id(parameters[ours]) in written):
                chosen.setdefault(in_class.name(ours, theirs), []).append((weight, parameters[ours].detach()))
                written.add(id(parameters[ours]))
    if missing := [name for name, parameter in parameters.items() if id(parameter) in learned.keys() - written]:
        raise DataError(
            f"{missing[0]}: the weight learned, and PEFT's files have no name for it; export the merged model"
        )
    for name, parts in chosen.items():
        if not any(weight.ours.startswith("heads.") for weight, _ in parts):
            raise DataError(
                f"{name}: a weight of the body learned beside the adapter; PEFT's files hold adapters and heads. "
                "Export the merged model, or keep the run's own folder"
            )
        contents.tensors[f"{contents.root}{name}"] = join(name, parts, plain.config)
    modules = list(dict.fromkeys(_module_to_save(name, in_class) for name in chosen))
    _complete(plain, modules, in_class, contents)
    contents.fields["modules_to_save"] = modules or None


def _module_to_save(name: str, in_class: ClassNames) -> str:
    """The module that PEFT copies for a weight: the whole head, or of what stands in the body the layer alone."""
    return name.rpartition(".")[0] if in_class.is_in_body(name) else name.partition(".")[0]


def _complete(plain: LanguageModel, modules: list[str], in_class: ClassNames, contents: Contents) -> None:
    """Adds the other weights of the modules that PEFT copies whole, as those that a tied head shares."""
    parameters = dict(plain.named_parameters(remove_duplicate=False))
    for ours, theirs, weight in file_names(plain):
        name = in_class.name(ours, theirs)
        owned = any(name.startswith(f"{module}.") for module in modules)
        if owned and f"{contents.root}{name}" not in contents.tensors and ours in parameters:
            contents.tensors[f"{contents.root}{name}"] = join(name, [(weight, parameters[ours].detach())], plain.config)
