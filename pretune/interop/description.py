"""Reads `config.json` into a family's typed configuration, and writes it.

Fields that the family lists are used, each within its range. `interop/file_fields.py` says what becomes of the others;
what is handed on stands in `Description.extras` and in the next `config.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast, get_args

from pretune import config as configuration
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.field_table import CarriedFiles, check_fields, handed_on_fields, shown_value, training_notes
from pretune.find import suggest, variants
from pretune.interop.chat_templates import check_chat_templates
from pretune.interop.file_fields import AT_READING, CARRIED_WHOLE, GENERATION, config_table
from pretune.interop.head_labels import class_labels, labelled_role
from pretune.interop.metadata import FIELD, Metadata, parse, resolve
from pretune.interop.nested_fields import NestedFields, nested_config
from pretune.interop.present_heads import present_heads, stated_class
from pretune.interop.recorded_heads import head_sources
from pretune.interop.rounded_files import check_notice, places_of, rounding_fields
from pretune.interop.safety import read_json
from pretune.interop.weight_names import architecture, body_prefixes, plain_name
from pretune.models.generation_fields import GenerationFields, tokens_of
from pretune.models.head_table import encoder_class_of
from pretune.models.model import Config, Family, LanguageModel, get_family
from pretune.nn.heads import ProblemType, ScoreOutput, SequenceHead
from pretune.nn.model_protocol import find_language_head
from pretune.text.tokenizer.folder import transformer_folder
from pretune.text.tokenizer.tokenizer import Tokenizer

_SPECIAL = tuple(f"{role}_token_id" for role in ("pad", "bos", "eos", "cls", "sep"))
_WRITING = ("forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "decoder_start_token_id")
_RECORDS = ("_from_model_config", "transformers_version")
_LABEL_LIMIT = 100_000
_CROSS_ENCODER_OUTPUTS: Mapping[str, ScoreOutput] = {"Identity": "value", "Sigmoid": "sigmoid"}


@dataclass
class Description:
    """Holds what a folder says of its model.

    Attributes:
        family: name of a file in `models/`.
        config: checked.
        roles: heads that the files carry.
        labels: names of the classes where the file gives them.
        problem_type: what the scores of a sequence are.
        output: what is said of the scores of a sequence; None for what the problem type means.
        states_problem_type: the file says what the scores of a sequence are.
        extras: fields that pretune does not use and hands on.
        carried: files that are handed on.
        metadata: what pretune wrote beside them.
        has_metadata: pretune wrote something there.
        notes: sentences for the log.
        generation: what the files say of how it writes.
        is_causal_class: its class is one of those whose texts sentence-transformers reads by their last row.
        training_notes: sentences for the log of training alone.
        missing: heads that the stated class has and the files lack, by role, and the first weight that is absent.
    """

    family: str
    config: Config
    roles: tuple[str, ...]
    labels: list[str] | None = None
    problem_type: ProblemType = "single_label_classification"
    output: ScoreOutput | None = None
    states_problem_type: bool = False
    extras: dict[str, Any] = field(default_factory=dict)
    carried: CarriedFiles = field(default_factory=CarriedFiles)
    metadata: Metadata = field(default_factory=Metadata)
    has_metadata: bool = False
    notes: list[str] = field(default_factory=list)
    generation: GenerationFields = field(default_factory=GenerationFields)
    is_causal_class: bool = False
    training_notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def describes(self, head: SequenceHead) -> bool:
        """Whether a head is the one that the files hold, and not one that somebody makes anew."""
        return head.problem_type == self.problem_type and (self.labels is None or head.labels == self.labels)


def read_description(folder: Path, shapes: Iterable[str], overrides: Mapping[str, Any]) -> Description:
    """Reads and checks `config.json`.

    Args:
        shapes: names of the tensors in the files, which tell the family and the heads where the configuration does not.
        overrides: fields to change.

    Raises:
        MissingInputError: no `config.json`.
        DataError: an unknown family, a field out of range or of the wrong type, a variant that is not supported.
        UsageError: an override that is not a field.
    """
    path = folder / "config.json"
    if not path.exists():
        raise MissingInputError(f"{path}: no such file; a model folder holds config.json and model.safetensors")
    config_fields = read_json(path)
    generation = folder / GENERATION
    beside = read_json(generation) if generation.exists() else {}
    notes = check_fields(generation, beside, AT_READING)
    generation_fields = {name: beside[name] for name in _WRITING if name in beside}
    description = interpret(path, config_fields, shapes, overrides, generation_fields)
    description.notes += notes
    if generation.exists():
        description.generation = GenerationFields(str(generation), _given(beside))
        if not description.generation.end_tokens:
            description.notes.append(
                f"{generation}: names no 'eos_token_id', so that transformers writes every text to its full length; "
                "pretune ends it with the tokenizer's end token"
            )
    description.carried.read_whole(folder, CARRIED_WHOLE)
    check_chat_templates(folder, description.carried.whole)
    return description


def interpret(
    path: Path,
    config_fields: Mapping[str, Any],
    shapes: Iterable[str],
    overrides: Mapping[str, Any],
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> Description:
    """Checks the fields of a configuration.

    Args:
        path: of what said it, for messages.
        beside: fields that another file says, which count where the family has them and the configuration is silent.

    Raises:
        DataError, UsageError: as `read_description`.
    """
    tensor_names = list(shapes)
    metadata = parse(path, config_fields)
    if metadata.family is None:
        family = _family(path, config_fields, tensor_names)
    else:
        family = resolve(metadata.family, "models", path.parent, "family")
    module = get_family(family)
    notes = check_fields(path, config_fields, config_table(module))
    check_notice(path, config_fields, metadata.rounded)
    stated_fields = {**beside, **_renamed(path, module, config_fields)}
    fields = {name: _plain(name, value) for name, value in stated_fields.items() if name in _known_fields(module)}
    fields = {**getattr(module, "FILE_DEFAULTS", {}), **fields}
    nested = NestedFields.read(path, module, config_fields)
    fields |= nested.known
    if encoder_class_of(family) is not None and stated_class(config_fields) == encoder_class_of(family):
        fields["is_encoder_decoder"] = False
    _in_range(module, fields, path)
    notes += nested.notes
    in_training = training_notes(path, config_fields, config_table(module)) + nested.training_notes
    rate = getattr(module, "ATTENTION_DROPOUT", "")
    attention = fields.pop(rate, 0.0)
    if attention and rate not in overrides:
        in_training.append(
            f"attention dropout {attention} of config.json is off, which is faster; --model.overrides.{rate} "
            f"{attention} turns it on"
        )
    config = configuration.validate(module.Config, {**fields, **overrides}, "model")
    heads = present_heads(family, config, metadata.heads, stated_class(config_fields), tensor_names)
    notes += [
        f"{path}: field 'architectures' names no class that is known here: {role} is read, and the same weights may be "
        f"those of {', '.join(others)}"
        for role, others in heads.unsure.items()
    ]
    return Description(
        family,
        config,
        heads.roles,
        _labels(path, config_fields),
        _problem_type(path, config_fields),
        output=_score_output(path, config_fields),
        states_problem_type=config_fields.get("problem_type") is not None,
        extras=handed_on_fields(config_fields, config_table(module)) | _several_ends(config_fields) | nested.handed_on,
        metadata=metadata,
        has_metadata=FIELD in config_fields,
        notes=notes,
        generation=GenerationFields.of_config(str(path), config_fields),
        is_causal_class=stated_class(config_fields).endswith("ForCausalLM")
        and config_fields.get("is_causal", True) is not False,
        training_notes=in_training,
        missing=dict(heads.missing),
    )


def _renamed(path: Path, module: Family, config_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields with the names that the family's `Config` has, where `transformers` reads others too.

    Raises:
        DataError: a field and its other name with two values.
    """
    other_names: Mapping[str, str] = getattr(module, "OTHER_NAMES", {})
    out = {name: value for name, value in config_fields.items() if name not in other_names}
    for other, name in other_names.items():
        if other in config_fields and out.setdefault(name, config_fields[other]) != config_fields[other]:
            raise DataError(
                f"{path}: field {other!r} = {shown_value(config_fields[other])} is another name of {name!r} = "
                f"{shown_value(out[name])}; leave out the wrong one"
            )
    return out


def _known_fields(module: Family) -> set[str]:
    """Lists the fields of `config.json` that the family understands, in today's form or in an older one."""
    return {*module.Config.model_fields, *getattr(module.Config, "OLDER_FIELDS", ())}


def _in_range(module: Family, fields: Mapping[str, Any], path: Path) -> None:
    """Checks the file's own fields before the user's changes: errors of the file are bad data, not bad usage."""
    try:
        configuration.validate(module.Config, fields, str(path), is_json=True)
    except UsageError as error:
        raise DataError(f"{error}; the file is damaged, hostile, or of a variant that pretune does not have") from None


def _several_ends(config_fields: Mapping[str, Any]) -> dict[str, Any]:
    """The end tokens where there are several, which are written back."""
    ends = config_fields.get("eos_token_id")
    return {"eos_token_id": ends} if isinstance(ends, list) else {}


def _plain(name: str, value: Any) -> Any:
    """Takes the first of several end tokens, which is the one that ends a document; all of them end a text."""
    return value[0] if name == "eos_token_id" and isinstance(value, list) and value else value


def _family(path: Path, config_fields: Mapping[str, Any], tensor_names: Sequence[str]) -> str:
    """Finds the family by `model_type`, else by the architecture, else by the names of the tensors."""
    known = variants("models")
    stated_type = config_fields.get("model_type")
    if stated_type in known and model_type(str(stated_type)) == stated_type:
        return str(stated_type)  # no other family's file is opened
    types = {model_type(family): family for family in known}
    if isinstance(stated_type, str) and stated_type in types:
        return types[stated_type]
    if stated_type is not None:
        hint = suggest(str(stated_type), sorted(types))
        raise DataError(f"{path}: field 'model_type' = {str(stated_type)[:80]!r}: no such family; {hint}")
    architecture = stated_class(config_fields)
    for family in known:
        if architecture in get_family(family).ARCHITECTURES:
            return family
    for family in known:
        module = get_family(family)
        body = [weight.theirs.format(0) for weight in module.WEIGHT_MAP if not weight.ours.startswith("heads.")]
        plain = {plain_name(name, body_prefixes(family)) for name in tensor_names}
        if sum(plain_name(name, body_prefixes(family)) in plain for name in body) * 2 > len(body):
            return family
    raise DataError(
        f"{path}: field 'model_type' is missing and the weights are of no known family; known: {', '.join(known)}"
    )


def model_type(family: str) -> str:
    """Returns what `config.json` calls a family: the name of its file, unless the file says otherwise."""
    return str(getattr(get_family(family), "MODEL_TYPE", Path(family).stem))


def _labels(path: Path, config_fields: Mapping[str, Any]) -> list[str] | None:
    table = config_fields.get("id2label")
    if not table:
        return None
    if not isinstance(table, dict) or len(table) > _LABEL_LIMIT:
        raise DataError(f"{path}: field 'id2label' must map at most {_LABEL_LIMIT:,} numbers to names")
    try:
        ordered = sorted((int(number), str(name)) for number, name in table.items())
    except ValueError:
        raise DataError(f"{path}: field 'id2label' must map numbers to names") from None
    if [number for number, _ in ordered] != list(range(len(ordered))):
        raise DataError(f"{path}: field 'id2label' must number the classes 0 to {len(ordered) - 1} without a gap")
    return [name for _, name in ordered]


def _problem_type(path: Path, config_fields: Mapping[str, Any]) -> ProblemType:
    """Reads what the scores of a sequence mean; by default a number where there is one label."""
    stated = config_fields.get("problem_type")
    if stated is None:
        return "regression" if _counts_one_label(config_fields) else "single_label_classification"
    for known in get_args(ProblemType):
        if stated == known:
            return cast(ProblemType, known)
    raise DataError(f"{path}: field 'problem_type' = {str(stated)[:80]!r}: expected {', '.join(get_args(ProblemType))}")


def _score_output(path: Path, config_fields: Mapping[str, Any]) -> ScoreOutput | None:
    """Reads what is said of a sequence's scores, where the problem type does not tell.

    `transformers` and `sentence-transformers` take the one score of a model as a probability, unless the files say that
    it is a value, or name another activation for it.

    Raises:
        DataError: an activation that is not known here.
    """
    stated = config_fields.get("sentence_transformers")
    activation = stated.get("activation_fn") if isinstance(stated, Mapping) else None
    field_name = "sentence_transformers.activation_fn"
    if activation is None:
        field_name = "sbert_ce_default_activation_function"
        activation = config_fields.get(field_name)
    if activation is not None:
        output = _CROSS_ENCODER_OUTPUTS.get(str(activation).rpartition(".")[2])
        if output is None or not str(activation).startswith("torch.nn."):
            raise DataError(
                f"{path}: field {field_name!r} = {shown_value(activation)}: expected torch's "
                f"{' or '.join(_CROSS_ENCODER_OUTPUTS)}; correct the field"
            )
        return output if _counts_one_label(config_fields) else None
    return "sigmoid" if config_fields.get("problem_type") is None and _counts_one_label(config_fields) else None


def _counts_one_label(config_fields: Mapping[str, Any]) -> bool:
    labels = config_fields.get("id2label")
    return len(labels) == 1 if isinstance(labels, dict) and labels else config_fields.get("num_labels") == 1


def read_labels(folder: Path) -> list[str] | None:
    """Reads the names of the classes in a model folder's `config.json`; None where there are none.

    Raises:
        DataError: a damaged file.
    """
    path = transformer_folder(folder) / "config.json"
    return _labels(path, read_json(path)) if path.is_file() else None


def record(model: LanguageModel) -> Metadata:
    """Returns the metadata that is written beside a model's configuration, with the heads filled in."""
    return model.metadata.model_copy(update={"heads": head_sources(model), "rounded": places_of(model)})


def describe(model: LanguageModel, tokenizer: Tokenizer | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of `config.json` and, for a model that generates, of `generation_config.json`."""
    class_name = architecture(model)
    config: dict[str, Any] = {
        **({} if class_name is None else {"architectures": [class_name]}),
        "model_type": model_type(model.family),
        **model.config.model_dump(mode="json"),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }
    config |= {name: value for name, value in model.extras.items() if name not in config}
    config |= nested_config(model)
    if "n_positions" in config:
        config.setdefault("n_ctx", config["n_positions"])  # the older name, which llama.cpp's converter reads
    if tokenizer is not None:
        vocabulary = tokenizer.vocabulary
        special = {"pad_token_id": vocabulary.pad, "bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.ending}
        if model.generation is not None and not {"bos_token_id"} & {*config, *model.generation.fields}:
            del special["bos_token_id"]  # the files name none
        config |= {name: number for name, number in special.items() if number is not None}
        if vocabulary.ending in (ends := tokens_of(model.extras.get("eos_token_id"))):
            config["eos_token_id"] = list(ends)
        other = {f"{role}_token_id": getattr(vocabulary, role) for role in ("cls", "sep", "mask")}
        config |= {name: number for name, number in other.items() if name in config and number is not None}
    absent = [name for name in _SPECIAL if isinstance(config.get(name), int) and config[name] >= model.vocab_size]
    config |= dict.fromkeys(absent)  # a token that the model does not have: transformers would not build it
    role = labelled_role(model)
    labels = class_labels(model, role) if role is not None else None
    if role is not None and labels is not None:
        config["id2label"] = {str(n): label for n, label in enumerate(labels)}
        config["label2id"] = {label: n for n, label in enumerate(labels)}
        if isinstance(head := model.heads[role], SequenceHead) and head.states_problem_type:
            config["problem_type"] = head.problem_type
        if config.get("pad_token_id") is None:
            config["pad_token_id"] = config.get("eos_token_id")
    metadata = record(model)
    config |= rounding_fields(metadata.rounded)
    config[FIELD] = metadata.model_dump(mode="json", exclude_none=True)
    return config, _generation(model, config) if find_language_head(model, "next") is not None else {}


def _generation(model: LanguageModel, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `generation_config.json`: those of the files, with the tokens of the configuration.

    Args:
        config: the fields of `config.json`.
    """
    roles = ("bos_token_id", "eos_token_id", "pad_token_id")
    if model.generation is None:
        return {name: config[name] for name in (*roles, *_WRITING) if config.get(name) is not None}
    stated = {name: value for name, value in model.generation.fields.items() if name not in _RECORDS}
    own = {name: config[name] for name in roles if config.get(name) is not None and name in stated}
    if {*tokens_of(own.get("eos_token_id"))} & {*model.generation.end_tokens}:
        del own["eos_token_id"]  # one of those that the files name
    if "eos_token_id" not in stated and config.get("eos_token_id") is not None:
        own["eos_token_id"] = config["eos_token_id"]
    return stated | own


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
