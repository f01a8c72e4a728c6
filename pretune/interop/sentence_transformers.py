"""Reads and writes the files of `sentence-transformers`, which say how a text becomes one vector.

modules.json names the modules: the model, whose settings are in sentence_bert_config.json, a pooling of its last
layer's rows, and what comes after it. config_sentence_transformers.json holds the prompts. A folder without
modules.json says nothing of vectors, whatever else lies in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath

from pretune.errors import DataError
from pretune.field_table import check_fields, parse_json, read_file, shown_value
from pretune.interop.safety import read_json
from pretune.interop.transformer_settings import SETTINGS, TransformerSettings, read_transformer
from pretune.interop.vector_fields import (
    MODEL_FIELDS,
    MODULES_FIELDS,
    REMEDY,
    SCORES_TRANSFORMER,
    SPARSE_FIELDS,
    SPARSE_SETTINGS,
    TRANSFORMER_FIELDS,
    WITHOUT,
)
from pretune.interop.vector_modules import read_module, write_module
from pretune.interop.weights import write_json
from pretune.models.text_vectors import Fields, TextVectors, VectorModule
from pretune.text.tokenizer.folder import MODULES

MODEL = "config_sentence_transformers.json"


def read_vectors(folder: Path, width: int, notes: list[str]) -> TextVectors | None:
    """Reads how the texts of a model become vectors; None where its files do not say it.

    Args:
        width: of the model's rows.
        notes: gets a sentence for what is not used, or not known.

    Raises:
        DataError: a damaged file, or a module or field that is not computed here.
        MissingInputError: a module's files are not there.
    """
    if not (folder / MODULES).is_file():
        for path in sorted(folder.glob("*_Pooling/config.json")):
            notes.append(f"{path.parent}: without a {MODULES} this pooling is not used, as in sentence-transformers")
        return None
    path = folder / MODEL
    model = read_json(path) if path.is_file() else {}
    class_name = model.get("model_type", "SentenceTransformer")
    is_sparse = class_name == "SparseEncoder" and _is_splade(folder)
    if class_name != "SentenceTransformer" and not is_sparse:
        if class_name != "CrossEncoder":  # which `read_cross_encoder` reads
            notes.append(
                f"{path}: field 'model_type' = {shown_value(class_name)}: its modules are neither read nor written on; "
                "vectors are one pooling of the last layer's rows, as SentenceTransformer makes them of such a folder"
            )
        return None
    notes += check_fields(path, model, MODEL_FIELDS)
    (first, where), *rest = _entries(folder, notes)
    _check_first(folder, first, ("Transformer", "MLMTransformer") if is_sparse else ("Transformer",))
    settings = read_transformer(folder / where, notes, SPARSE_FIELDS if is_sparse else TRANSFORMER_FIELDS)
    return _vectors(folder, model, settings, _modules(folder, rest, width, notes))


def _is_splade(folder: Path) -> bool:
    """Whether a sparse encoder is a masked language model with the pooling of SPLADE and nothing more."""
    names = [entry.type.rpartition(".")[2] for entry, _ in _entries(folder, [])]
    return names in (["Transformer", "SpladePooling"], ["MLMTransformer", "SpladePooling"])


def write_vectors(folder: Path, vectors: TextVectors, width: int, length: int) -> None:
    """Writes how texts become vectors into the folder of a model.

    Args:
        width: of the model's rows.
        length: tokens that a text may have, special ones included.
    """
    is_sparse = vectors.sparse_pool is not None
    first = SCORES_TRANSFORMER if is_sparse else "sentence_transformers.models.Transformer"
    entries: list[Fields] = [{"idx": 0, "name": "0", "path": "", "type": first}]
    widths = {"token_embeddings": width, "sentence_embedding": width}
    for n, module in enumerate(vectors.modules, 1):
        path = f"{n}_{module.type.rpartition('.')[2]}"
        entry = {"idx": n, "name": str(n), "path": path, "type": module.type}
        entries.append(entry | ({"kwargs": list(module.kwargs)} if module.kwargs else {}))
        brick = module.brick
        write_module(module, folder / path, width if brick is None else widths[brick.reads])
        if brick is not None and not is_sparse:
            widths[brick.writes] = brick.width(widths[brick.reads])
    write_json(folder / MODULES, entries)
    own: Fields = {"max_seq_length": vectors.max_length or length, "do_lower_case": vectors.lowercase}
    own = {**own, **SPARSE_SETTINGS} if is_sparse else own
    write_json(folder / SETTINGS, vectors.fields.get(SETTINGS, own))
    usual: Fields = {
        "prompts": dict(vectors.prompts),
        "default_prompt_name": vectors.default_prompt_name,
        "similarity_fn_name": "dot" if is_sparse else "cosine",
        **({"model_type": "SparseEncoder"} if is_sparse else {}),
    }
    fields = dict(vectors.fields.get(MODEL) or usual)
    if vectors.dimensions is None:
        fields.pop("truncate_dim", None)
    write_json(folder / MODEL, fields)


def stale_modules(folder: Path, keep: Sequence[str]) -> list[Path]:
    """Lists the file that names the modules of an earlier save, where a model without any is written over it."""
    path = folder / MODULES
    return [path] if MODULES not in keep and path.is_file() else []


def _entries(folder: Path, notes: list[str]) -> list[tuple[VectorModule, str]]:
    """What modules.json lists, in its order, each with the path of its files."""
    path = folder / MODULES
    listed = parse_json(read_file(path), str(path))
    if not isinstance(listed, list) or not listed or not all(isinstance(entry, dict) for entry in listed):
        raise DataError(f"{path}: expected a list of modules, each an object; correct it, {WITHOUT}")
    entries = [_entry(path, n, entry) for n, entry in enumerate(listed)]
    for n, entry in enumerate(listed):
        notes += check_fields(f"{path}[{n}]", entry, MODULES_FIELDS)
    names = [entry["name"] for entry in listed]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: field 'name' = {twice!r} stands there twice; give each module its own")
    return entries


def _entry(path: Path, number: int, fields: Fields) -> tuple[VectorModule, str]:
    """One module of modules.json, with the path of its files."""
    for field in ("type", "path", "name"):
        if not isinstance(value := fields.get(field), str):
            raise DataError(
                f"{path}: field '[{number}].{field}' = {shown_value(value)}: expected a text; correct it, {WITHOUT}"
            )
    where = PureWindowsPath(fields["path"])
    if where.anchor or ".." in where.parts or "\0" in fields["path"]:
        raise DataError(
            f"{path}: field '[{number}].path' = {shown_value(fields['path'])} leads out of the folder; it was not read"
        )
    kwargs = fields.get("kwargs") or []
    if not isinstance(kwargs, list) or not all(isinstance(name, str) for name in kwargs):
        raise DataError(f"{path}: field '[{number}].kwargs' = {shown_value(kwargs)}: expected a list of names")
    return VectorModule(fields["type"], None, None, tuple(kwargs)), fields["path"]


def _check_first(folder: Path, first: VectorModule, known: Sequence[str]) -> None:
    """Refuses a folder whose first module is no transformer."""
    package, _, name = first.type.rpartition(".")
    if not package.startswith("sentence_transformers"):
        raise DataError(
            f"{folder / MODULES}: type {first.type[:100]!r} names code of its own, which is never run; {REMEDY}"
        )
    if name not in known:
        raise DataError(f"{folder / MODULES}: the first module, {name!r}, is no transformer; {REMEDY}")


def _modules(
    folder: Path, entries: Iterable[tuple[VectorModule, str]], width: int, notes: list[str]
) -> tuple[VectorModule, ...]:
    """The modules after the transformer, which must end in one vector of a text."""
    reading = {"token_embeddings": width}
    modules = tuple(read_module(entry, folder / path, reading, notes) for entry, path in entries)
    if "sentence_embedding" not in reading:
        raise DataError(f"{folder / MODULES}: no module makes one vector of a text; add a Pooling, {WITHOUT}")
    return modules


def _vectors(
    folder: Path, model: Fields, settings: TransformerSettings, modules: tuple[VectorModule, ...]
) -> TextVectors:
    """All that the files say together."""
    path = folder / MODEL
    dimensions, name, prompts = model.get("truncate_dim"), model.get("default_prompt_name"), _prompts(path, model)
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1):
        raise DataError(f"{path}: field 'truncate_dim' = {shown_value(dimensions)}: expected a whole number above 0")
    known = [*prompts, "query", "document"]
    if name is not None and name not in known:
        raise DataError(
            f"{path}: field 'default_prompt_name' = {shown_value(name)}: the prompts are {', '.join(known)}; name one "
            "of them, or null for none"
        )
    fields = {SETTINGS: settings.fields, MODEL: model}
    return TextVectors(modules, settings.max_length, settings.lowercase, dimensions, prompts, name, fields)


def _prompts(path: Path, model: Fields) -> Mapping[str, str]:
    prompts = model.get("prompts") or {}
    texts = prompts.values() if isinstance(prompts, dict) else [prompts]
    if not isinstance(prompts, dict) or not all(text is None or isinstance(text, str) for text in texts):
        raise DataError(f"{path}: field 'prompts' = {shown_value(prompts)}: expected a text by name")
    return {name: text or "" for name, text in prompts.items()}
