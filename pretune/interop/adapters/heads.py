"""The heads in folders of `adapters`: that of a class of `transformers`, or one that was configured by itself.

A configured head is a list of layers without names of their own, `heads.NAME.1`, `heads.NAME.4`. Where one computes
what a class of `transformers` does, it is read as that class's head; pretune's heads are written as configured ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pretune.errors import DataError
from pretune.field_table import shown_value
from pretune.interop.adapters.contents import HEAD_CONFIG, NAME, Contents
from pretune.interop.head_labels import class_labels
from pretune.interop.huggingface import load_model
from pretune.interop.recorded_heads import HeadMakers
from pretune.interop.weight_names import file_names
from pretune.models.head_table import classes_of
from pretune.models.model import LanguageModel
from pretune.models.standard_heads import LABELLED_HEADS, standard_heads
from pretune.nn.heads import ProblemType

_CONFIGURED = ("AdapterModel", "ModelWithHeads")
"""How the names of the classes end whose heads are configured by themselves."""
_REMEDY = "use this head in the library adapters, or remove head_config.json and its weights to read the adapter alone"


@dataclass(frozen=True)
class Configured:
    """A configured head that computes what a standard one does.

    Attributes:
        role: of the standard head.
        settings: what the configuration must say.
        layers: the numbers of its layers, by our names in the head.
    """

    role: str
    settings: Mapping[str, object]
    layers: Mapping[str, int]


def _two_layers(activation: str) -> Configured:
    settings = {"layers": 2, "activation_function": activation, "use_pooler": False, "bias": True}
    return Configured("classification", settings, {"pooler.dense": 1, "linear": 4})


_POOLED = Configured("classification", {"layers": 1, "use_pooler": True, "bias": True}, {"linear": 1})
_LAST_TOKEN = Configured("classification", {"layers": 1, "use_pooler": False, "bias": False}, {"linear": 1})
_DEFAULT: ProblemType = "single_label_classification"
_UNSAID: Mapping[str, object] = {"bias": True, "use_pooler": False}
_PARAMETERS = ("weight", "bias")
_TAGS = Configured("token_classification", {"layers": 1}, {"linear": 1})
_SPANS = Configured("question_answering", {"layers": 1}, {"linear": 1})
_CLASSES: Mapping[str, tuple[Configured, ...]] = {
    "bert": (_two_layers("tanh"), _POOLED),
    "roberta": (_two_layers("tanh"),),
    "electra": (_two_layers("gelu"),),
    "gpt2": (_LAST_TOKEN,),
    "llama": (_LAST_TOKEN,),
}
"""Heads of sequences, by family; the first is written."""
_TYPES: Mapping[str, ProblemType] = {
    "classification": _DEFAULT,
    "multilabel_classification": "multi_label_classification",
}


def read_base(
    folder: Path, family: str, contents: Contents, makers: HeadMakers
) -> tuple[LanguageModel, dict[str, Tensor]]:
    """Reads a base with the head that stands in an adapter's folder.

    Args:
        folder, family: of the base.

    Returns:
        The model, whose head has the base's values or initial ones, and the tensors of the head by their names in the
        files of a class of `transformers`.

    Raises:
        DataError: a head that pretune has not.
    """
    if contents.head is None:
        return load_model(folder, makers=makers), {}
    labels = _labels(contents)
    class_name = str(contents.head.get("model_class"))
    if contents.head.get("config") is None and not class_name.endswith(_CONFIGURED):
        roles = classes_of(family).get(class_name)
        if roles is None:
            raise DataError(
                f"{contents.where}/{HEAD_CONFIG}: field 'model_class' = {class_name[:80]!r}: {family} has no such "
                f"class; known: {', '.join(classes_of(family))}; {_REMEDY}"
            )
        return load_model(folder, heads=roles, labels=labels), dict(contents.head_tensors)
    head, problem = _configured(family, contents)
    labels = labels if head.role in LABELLED_HEADS else None
    model = load_model(folder, heads=standard_heads((head.role,), labels, problem), labels=labels)
    return model, _renamed(model, head, contents)


def _labels(contents: Contents) -> list[str] | None:
    """The names of the classes, in the order of their numbers; None where the file has none.

    Raises:
        DataError: numbers that are not 0 and so on.
    """
    assert contents.head is not None
    settings = contents.head.get("config") or contents.head
    table, count = settings.get("label2id"), settings.get("num_labels")
    if not table:
        return [f"LABEL_{n}" for n in range(count)] if type(count) is int and 0 < count < 2**16 else None
    if not isinstance(table, dict) or sorted(map(str, table.values())) != sorted(map(str, range(len(table)))):
        raise DataError(
            f"{contents.where}/{HEAD_CONFIG}: field 'label2id' = {shown_value(table)}: expected names with the numbers "
            "from 0 on; correct it"
        )
    return sorted(table, key=lambda name: int(table[name]))


def _configured(family: str, contents: Contents) -> tuple[Configured, ProblemType]:
    """The standard head that a configured one computes as.

    Raises:
        DataError: there is none.
    """
    assert contents.head is not None
    settings = contents.head.get("config")
    settings = settings if isinstance(settings, dict) else {}
    head_type = str(settings.get("head_type"))
    known = {"tagging": (_TAGS,), "question_answering": (_SPANS,)}
    fitting = _CLASSES.get(family, ()) if head_type in _TYPES else known.get(head_type, ())
    for head in fitting:
        if all(_value(settings, name) == value for name, value in head.settings.items()):
            count = settings.get("num_labels")
            is_value = head_type == "classification" and count == 1
            return head, "regression" if is_value else _TYPES.get(head_type, _DEFAULT)
    field = "head_type"
    if fitting:
        field = next(name for name, value in fitting[0].settings.items() if _value(settings, name) != value)
    raise DataError(
        f"{contents.where}/{HEAD_CONFIG}: field {field!r} = {shown_value(settings.get(field))}: pretune has no such "
        f"head for {family}; {_REMEDY}"
    )


def _value(settings: Mapping[str, Any], name: str) -> object:
    return settings.get(name, _UNSAID.get(name))


def _renamed(model: LanguageModel, head: Configured, contents: Contents) -> dict[str, Tensor]:
    """The tensors of a configured head by their names in the files of a class."""
    assert contents.head is not None
    theirs = {ours: name for ours, name, _ in file_names(model)}
    tensors = dict(contents.head_tensors)
    out: dict[str, Tensor] = {}
    for path, layer in head.layers.items():
        for parameter in ("weight", "bias"):
            value = tensors.pop(f"heads.{contents.head.get('name')}.{layer}.{parameter}", None)
            ours = f"heads.{head.role}.{path}.{parameter}"
            if value is not None:
                out[theirs.get(ours, ours)] = value
    if tensors or not out:
        raise contents.damaged(
            f"{HEAD_CONFIG} says another head than its tensors: {', '.join([*tensors][:3]) or 'none'}"
        )
    return out


def write(plain: LanguageModel, learned: Mapping[int, Tensor], contents: Contents) -> list[str] | None:
    """Adds the head that learned, as a configured one.

    Args:
        plain: the model without adapters.
        learned: its parameters that learned, by their `id`.

    Returns:
        The names of the head's classes; None where it has none.

    Raises:
        DataError: a weight that the files have no place for.
    """
    if not learned:
        return None
    known: dict[str, tuple[Configured, ...]] = {"token_classification": (_TAGS,), "question_answering": (_SPANS,)}
    known["classification"] = _CLASSES.get(plain.family, ())
    parameters = dict(plain.named_parameters())
    for role, heads in known.items():
        own = {name for name in parameters if name.startswith(f"heads.{role}.")}
        names = {name for name in parameters if id(parameters[name]) in learned}
        if not names <= own or not heads:
            continue
        head = heads[0]
        layers = head.layers.items()
        places = {f"heads.{role}.{path}.{parameter}": layer for path, layer in layers for parameter in _PARAMETERS}
        if own <= places.keys():
            for name in own:
                parameter = name.rpartition(".")[2]
                contents.head_tensors[f"heads.{NAME}.{places[name]}.{parameter}"] = parameters[name].detach()
            labels = class_labels(plain, role)
            contents.head = {"config": _settings(plain, role, head, labels), "name": NAME}
            return labels
    odd = next(name for name in parameters if id(parameters[name]) in learned)
    raise DataError(
        f"format adapters: {odd} learned, and pretune writes no head of it for the library; export the merged model, "
        "or keep the run's own folder"
    )


def _settings(plain: LanguageModel, role: str, head: Configured, labels: list[str] | None) -> dict[str, object]:
    label2id = None if labels is None else {label: number for number, label in enumerate(labels)}
    common: dict[str, object] = {"label2id": label2id, "dropout_prob": None, "layers": 1, "activation_function": None}
    if role == "question_answering":
        return {"head_type": "question_answering", **common, "num_labels": 2}
    common["num_labels"] = len(labels or ())
    if role == "token_classification":
        return {"head_type": "tagging", **common}
    problem = getattr(plain.heads[role], "problem_type", _DEFAULT)
    head_type = "multilabel_classification" if problem == "multi_label_classification" else "classification"
    return {"head_type": head_type, **common, **head.settings}
