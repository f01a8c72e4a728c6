"""Reads and writes PEFT's folders: `read` puts an adapter on its base, `write` saves what a method learned.

    adapter_config.json --check--> fields --+
    adapter_model.safetensors --> tensors --+--> heads and biases --> base --surgery--> bricks --> model
    base, a folder -------------------------+

Each type is a file beside this one, called as `peft_type` in small letters, with `read` and `write`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pretune.errors import DataError
from pretune.field_table import check_fields
from pretune.find import find, variants
from pretune.interop.adapter_files import (
    CONFIG,
    AdapterFiles,
    ExportedAdapter,
    freeze_base,
    learned_of,
    named_base,
    read_fields,
    read_tensors,
)
from pretune.interop.head_labels import class_labels, labelled_role
from pretune.interop.huggingface import load_model, read_body
from pretune.interop.peft import saved
from pretune.interop.peft.contents import BIN, WEIGHTS, Contents
from pretune.interop.peft.fields import FORMAT_VERSION, TABLES
from pretune.interop.peft.modules import ModuleTable
from pretune.interop.peft.surgery import untuned
from pretune.interop.recorded_heads import HeadMakers
from pretune.interop.weight_names import architecture, body_prefixes, file_names, plain_name
from pretune.models.head_table import HEAD_CLASSES, classes_of
from pretune.models.model import LanguageModel
from pretune.text.tokenizer.tokenizer import Tokenizer

_AXIS = "interop.peft"
_NO_LABELS = "an adapter of peft has no names of labels: it answers LABEL_0, LABEL_1 ... in the model's order"
_TASKS: Mapping[str, str | tuple[str, ...]] = {
    "SEQ_CLS": HEAD_CLASSES["classification"],
    "TOKEN_CLS": HEAD_CLASSES["token_classification"],
    "QUESTION_ANS": HEAD_CLASSES["question_answering"],
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel"),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration", "MTModel"),
    "FEATURE_EXTRACTION": "Model",
}
"""How the names of the classes end that a `task_type` means."""


def read(
    path: Path | str, base: Path | str | None = None, *, makers: HeadMakers = MappingProxyType({})
) -> LanguageModel:
    """Reads a base and puts the adapter of a folder on it.

    Args:
        base: folder of the model that was tuned, where `adapter_config.json` does not name a folder that is there.
        makers: what makes heads of the base that are not standard.

    Raises:
        MissingInputError: no adapter, or its base is not there.
        DataError: damaged or hostile files, a type or a field that pretune does not do, or another base.
    """
    contents = read_contents(Path(path))
    type_file = find(_AXIS, contents.fields["peft_type"].lower())
    by_module = contents.take(*type_file.PARTS)
    if not by_module:
        raise contents.damaged(f"no tensor of {contents.fields['peft_type']} in the file")
    model = _read_base(find_base(Path(path), base), contents, makers)
    learned = saved.read(model, contents)
    before = {id(parameter) for parameter in model.parameters()}
    type_file.read(model, contents, by_module)
    freeze_base(model, learned, before)
    return model


def read_contents(path: Path) -> Contents:
    """What a folder holds, checked.

    Raises:
        MissingInputError: no adapter there, or no tensors of it.
        DataError: damaged or hostile files, or a type or field that pretune does not do.
    """
    fields = read_fields(path, "PEFT")
    peft_type = fields.get("peft_type")
    if not isinstance(peft_type, str) or peft_type not in TABLES:
        raise DataError(
            f"{path / CONFIG}: field 'peft_type' = {str(peft_type)[:80]!r}: pretune reads {', '.join(TABLES)}; merge "
            "the adapter in peft, and use the merged model"
        )
    check_fields(path / CONFIG, fields, TABLES[peft_type])
    return Contents(str(path), fields, read_tensors(path, WEIGHTS, BIN))


def find_base(path: Path, base: Path | str | None = None) -> Path:
    """The folder of an adapter's base; arguments and errors as of `named_base`."""
    return named_base(path, "base_model_name_or_path", base)


def _read_base(base: Path, contents: Contents, makers: HeadMakers) -> LanguageModel:
    """Reads the base with the heads of the class that was tuned, and as many classes as the adapter has."""
    body = read_body(base, {})
    roles = _roles(body, contents)
    if roles is None:
        return load_model(base, makers=makers)
    rows = _label_rows(body, roles, contents)
    model = load_model(base, heads=roles)
    role = labelled_role(model)
    if rows is not None and role is not None and len(class_labels(model, role) or ()) != rows:
        model = load_model(base, heads=roles, labels=[f"LABEL_{n}" for n in range(rows)])
    return model


def _roles(body: LanguageModel, contents: Contents) -> tuple[str, ...] | None:
    """The heads of the class that was tuned; None where the configuration does not say which that is.

    Raises:
        DataError: a class that the family does not have here.
    """
    task, mapping = contents.fields.get("task_type"), contents.fields.get("auto_mapping") or {}
    classes = classes_of(body.family)
    name, ends = mapping.get("base_model_class"), _TASKS.get(str(task))
    if task is None and name is None:
        return None
    fitting = [each for each in classes if each == name or (ends is not None and each.endswith(ends))]
    if not fitting:
        field = f"'task_type' = {task!r}" if task is not None else f"'base_model_class' = {str(name)[:80]!r}"
        known = ", ".join(classes)
        raise DataError(f"{contents.where}/{CONFIG}: field {field}: {body.family} has no such class; known: {known}")
    return classes[min(fitting, key=len)]


def _label_rows(body: LanguageModel, roles: Sequence[str], contents: Contents) -> int | None:
    """How many classes the adapter's head has; None where its files hold none."""
    prefixes = body_prefixes(body.family)
    last = {plain_name(theirs, prefixes) for ours, theirs, _ in file_names(body) if _is_last(ours, roles)}
    for name, tensor in contents.tensors.items():
        if saved.base_name(name, prefixes) in last:
            return len(tensor)
    return None


def _is_last(ours: str, roles: Sequence[str]) -> bool:
    return any(ours == f"heads.{role}.linear.weight" for role in roles)


def write(
    model: LanguageModel,
    directory: Path | str,
    base: str | None = None,
    tokenizer: Tokenizer | None = None,
    check: Callable[[Path], None] | None = None,
) -> ExportedAdapter:
    """Writes what a model's method learned as an adapter of PEFT; the folder is complete or not there.

    Args:
        model: with the bricks of one method.
        base: folder or name of the model that was tuned, as `peft` is to find it.
        tokenizer: written beside it.
        check: looks at the folder before it takes its place.

    Raises:
        DataError: no method whose files these are, several of them, or something that the files have no place for.
        StorageError: the disk is full or fails.
        CannotCreateError: no permission, or a file in the way.
    """
    plain = untuned(model)
    contents = _contents_of(model, plain, base)
    adapters = len(contents.tensors)
    saved.write(plain, learned_of(model, plain), contents)
    AdapterFiles({CONFIG: contents.fields}, {WEIGHTS: contents.tensors}).write(Path(directory), tokenizer, check)
    role = labelled_role(plain)
    labels = None if role is None else len(class_labels(plain, role) or ())
    heads = tuple(contents.fields["modules_to_save"] or ())
    use = _use(architecture(plain), base, str(directory), labels)
    notes = () if labels is None else (_NO_LABELS,)
    return ExportedAdapter(contents.fields["peft_type"], adapters, heads, base, use, labels, notes=notes)


def _use(class_name: str | None, base: str | None, directory: str, labels: int | None) -> str:
    """A line of Python that opens the adapter."""
    size = "" if labels is None else f", num_labels={labels}"
    opened = f"transformers.{class_name or 'AutoModel'}.from_pretrained({base!r}{size})"
    return f"import peft, transformers; print(peft.PeftModel.from_pretrained({opened}, {directory!r}))"


def _contents_of(model: LanguageModel, plain: LanguageModel, base: str | None) -> Contents:
    table = ModuleTable(plain)
    all_types: list[Contents | None] = [find(_AXIS, name).write(model, table) for name in variants(_AXIS)]
    written = [each for each in all_types if each is not None]
    if not written:
        raise DataError(
            "format peft: this model has no adapter that PEFT has a type for (lora, adalora, ia3, prefix, prompt); "
            "export it as a model, --format fp32"
        )
    if len(written) > 1:
        kinds = " and ".join(str(each.fields["peft_type"]) for each in written)
        raise DataError(f"format peft: this model has {kinds}, and a folder of PEFT holds one type; merge one of them")
    contents = written[0]
    name = architecture(plain)
    task = next((task for task, ends in _TASKS.items() if name is not None and name.endswith(ends)), None)
    mapping = {
        "base_model_class": name,
        "parent_library": f"transformers.models.{plain.family}.modeling_{plain.family}",
    }
    contents.fields |= {
        "task_type": task,
        "auto_mapping": mapping if task is None and name is not None else None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "peft_version": FORMAT_VERSION,
    }
    return contents
