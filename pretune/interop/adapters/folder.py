"""Reads and writes folders of the library `adapters`: a method's tensors, its configuration, and a head.

    adapter_config.json --check--> fields --+
    adapter.safetensors ------> tensors ----+--> base with the head --surgery--> bricks --> model
    head_config.json, model_head.safetensors +

Each method is a file beside this one, with `read` and `write`. Adapters stand in modules whose names `places` knows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from pretune.errors import DataError
from pretune.field_table import check_fields, shown_value
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
from pretune.interop.adapters import heads
from pretune.interop.adapters.contents import (
    BIN,
    HEAD_BIN,
    HEAD_CONFIG,
    HEAD_WEIGHTS,
    NAME,
    WEIGHTS,
    Contents,
)
from pretune.interop.adapters.fields import FORMAT_VERSION, HEAD, OUTER, TABLES
from pretune.interop.adapters.places import places_of
from pretune.interop.description import model_type
from pretune.interop.huggingface import read_body
from pretune.interop.peft import saved
from pretune.interop.peft.contents import Contents as PlainContents
from pretune.interop.peft.modules import ModuleTable
from pretune.interop.peft.surgery import untuned
from pretune.interop.recorded_heads import HeadMakers
from pretune.interop.safety import read_json
from pretune.interop.weight_names import architecture
from pretune.models.model import LanguageModel
from pretune.text.tokenizer.tokenizer import Tokenizer

_AXIS = "interop.adapters"
_FUSION = "adapter_fusion_config.json"
_LORA_MODES = {"add": "lora", "scale": "ia3"}


def read(
    path: Path | str, base: Path | str | None = None, *, makers: HeadMakers = MappingProxyType({})
) -> LanguageModel:
    """Reads a base and puts the adapter of a folder on it.

    Args:
        base: folder of the model that was tuned, where `model_name` is not a folder that is there.
        makers: what makes heads of the base that are not standard.

    Raises:
        MissingInputError: no adapter, or its base is not there.
        DataError: damaged or hostile files, a method or a field that pretune does not do, or another base.
    """
    contents, method = read_contents(Path(path))
    by_module = contents.take_added(method.PLACE)
    folder = find_base(Path(path), base)
    body = read_body(folder, {})
    _check_base(body, contents)
    model, head_tensors = heads.read_base(folder, body.family, contents, makers)
    learned = saved.read(model, PlainContents(contents.where, {}, head_tensors))
    before = {id(parameter) for parameter in model.parameters()}
    method.read(model, contents, by_module)
    freeze_base(model, learned, before)
    return model


def read_contents(path: Path) -> tuple[Contents, ModuleType]:
    """What a folder holds, checked, and the file of its method.

    Raises:
        MissingInputError: no adapter there, or no tensors of it.
        DataError: damaged or hostile files, or a method or field that pretune does not do.
    """
    outer = read_fields(path, "the library adapters")
    if (path / _FUSION).exists():
        raise DataError(
            f"{path / _FUSION}: several adapters are fused by attention, which pretune does not do; use them in the "
            "library adapters, or read the folder of one adapter"
        )
    check_fields(path / CONFIG, outer, OUTER)
    fields = outer.get("config")
    if not isinstance(fields, dict) or not isinstance(outer.get("name"), str):
        raise DataError(
            f"{path / CONFIG}: fields 'config' and 'name' are needed, an object and a text; save the adapter again"
        )
    name = _method(path, fields)
    check_fields(path / CONFIG, fields, TABLES[name])
    contents = Contents(str(path), fields, read_tensors(path, WEIGHTS, BIN), outer=outer)
    if (path / HEAD_CONFIG).is_file():
        contents.head = read_json(path / HEAD_CONFIG)
        check_fields(path / HEAD_CONFIG, contents.head, HEAD)
        contents.head_tensors = read_tensors(path, HEAD_WEIGHTS, HEAD_BIN)
    return contents, find(_AXIS, name)


def _method(path: Path, fields: dict[str, Any]) -> str:
    """The name of a method's file.

    Raises:
        DataError: a method that pretune has not.
    """
    architecture_name, mode = fields.get("architecture"), fields.get("composition_mode", "add")
    if architecture_name in (None, "bottleneck"):
        return "bottleneck"
    if architecture_name == "lora" and isinstance(mode, str) and mode in _LORA_MODES:
        return _LORA_MODES[mode]
    field, value = ("composition_mode", mode) if architecture_name == "lora" else ("architecture", architecture_name)
    raise DataError(
        f"{path / CONFIG}: field {field!r} = {shown_value(value)}: pretune reads bottleneck adapters (no "
        "architecture), lora and (IA)^3 (lora, composition_mode scale); use this adapter in the library adapters"
    )


def find_base(path: Path, base: Path | str | None = None) -> Path:
    """The folder of an adapter's base; arguments and errors as of `named_base`."""
    return named_base(path, "model_name", base)


def _check_base(body: LanguageModel, contents: Contents) -> None:
    """Refuses a base of another family or width than the adapter's."""
    places_of(body, f"{contents.where}/{CONFIG}")
    for field, own in (("model_type", model_type(body.family)), ("hidden_size", body.width)):
        value = contents.outer.get(field)
        if value is not None and value != own:
            raise DataError(
                f"{contents.where}/{CONFIG}: field {field!r} = {str(value)[:80]!r}, the base has {own!r}; give the "
                "base that was tuned"
            )


def write(
    model: LanguageModel,
    directory: Path | str,
    base: str | None = None,
    tokenizer: Tokenizer | None = None,
    check: Callable[[Path], None] | None = None,
) -> ExportedAdapter:
    """Writes what a model's method learned as an adapter of the library; the folder is complete or not there.

    Args:
        model: with the bricks of one method.
        base: folder or name of the model that was tuned, as the library is to find it.
        tokenizer: written beside it.
        check: looks at the folder before it takes its place.

    Raises:
        DataError: no method whose files these are, several of them, or something that the files have no place for.
        StorageError: the disk is full or fails.
        CannotCreateError: no permission, or a file in the way.
    """
    plain = untuned(model)
    name, contents = _contents_of(model, plain)
    labels = heads.write(plain, learned_of(model, plain), contents)
    places = places_of(plain, "format adapters")
    class_name = f"{places.stem}AdapterModel" if contents.head is not None else architecture(plain)
    common = {
        "hidden_size": plain.width,
        "model_class": class_name,
        "model_name": base,
        "model_type": model_type(plain.family),
        "version": FORMAT_VERSION,
    }
    configs = {CONFIG: {"config": contents.fields, "name": NAME, **common}}
    tensors = {WEIGHTS: contents.tensors}
    if contents.head is not None:
        configs[HEAD_CONFIG] = contents.head | common
        tensors[HEAD_WEIGHTS] = contents.head_tensors
    AdapterFiles(configs, tensors).write(Path(directory), tokenizer, check)
    use = _use(class_name, base, str(directory), has_head=contents.head is not None)
    return ExportedAdapter(name, len(contents.tensors), tuple(contents.head_tensors), base, use, _count(labels))


def _count(labels: list[str] | None) -> int | None:
    return None if labels is None else len(labels)


def _use(class_name: str | None, base: str | None, directory: str, *, has_head: bool) -> str:
    """A line of Python that opens the adapter."""
    if has_head:
        opened = f"import adapters; m = adapters.{class_name}.from_pretrained({base!r})"
    else:
        opened = (
            f"import adapters, transformers; m = transformers.{class_name}.from_pretrained({base!r}); adapters.init(m)"
        )
    return f"{opened}; m.load_adapter({directory!r}, use_safetensors=True, set_active=True); print(m)"


def _contents_of(model: LanguageModel, plain: LanguageModel) -> tuple[str, Contents]:
    table = ModuleTable(plain)
    written = {name: c for name in variants(_AXIS) if (c := find(_AXIS, name).write(model, table)) is not None}
    if len(written) != 1:
        has = "no adapter that the library has" if not written else " and ".join(written)
        raise DataError(
            f"format adapters: this model has {has}, and a folder holds one of bottleneck, lora and ia3; export it as "
            "a model, --format fp32, or use --format peft"
        )
    return next(iter(written.items()))
