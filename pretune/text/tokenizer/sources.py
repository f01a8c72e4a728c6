"""The files beside a tokenizer, parsed and checked, and what they say of special and added tokens.

`transformers` reads them in an order that decides which one counts: `added_tokens_decoder` of tokenizer_config.json,
where it stands, puts special_tokens_map.json, added_tokens.json and the added tokens of tokenizer.json out of force;
else special_tokens_map.json goes before tokenizer_config.json.

Source: huggingface/transformers 5.23, tokenization_utils_base.py, `_from_pretrained`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from pretune.errors import DataError
from pretune.field_table import check_fields, parse_json, read_file, shown_value
from pretune.text.tokenizer.file_fields import TOKENIZER_TABLES
from pretune.text.tokenizer.layout_check import FILE_LIMIT, MAX_ADDED, MAX_IDS, MAX_PIECE, SETTINGS_LIMIT

ATTRIBUTES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The named special tokens, in the order in which they are added."""
_BEGIN_END = ("add_bos_token", "add_eos_token")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass
class TokenizerFiles:
    """Holds what the files of a folder say, each parsed.

    Attributes:
        folder: where they lie.
        config: of config.json, what chooses the tokenizer's class.
        settings: tokenizer_config.json.
        special: special_tokens_map.json.
        added: added_tokens.json: token to id.
        layout: tokenizer.json; None where there is none, or where another file was asked for.
        notes: sentences on what is not known.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    special: dict[str, Any] = field(default_factory=dict)
    added: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, layout: bool = True) -> TokenizerFiles:
        """Parses and checks what a folder has of them.

        Args:
            layout: read tokenizer.json.

        Raises:
            DataError: a file that is not a JSON object, or with a field that is refused.
        """
        files = cls(folder)
        config = parse_object(folder / "config.json")
        files.config = {name: config[name] for name in ("model_type", "tokenizer_class") if config.get(name)}
        for name in files.config:
            if not isinstance(config[name], str):
                raise DataError(
                    f"{folder / 'config.json'}: field {name!r} = {shown_value(config[name])}: expected a text"
                )
        files.settings = files.checked("tokenizer_config.json")
        files.special = files.checked("special_tokens_map.json")
        files.added = files.checked("added_tokens.json")
        if layout and (folder / "tokenizer.json").is_file():
            files.layout = files.checked("tokenizer.json")
        return files

    def checked(self, name: str) -> dict[str, Any]:
        """The object in a file, with its table's refusals raised and notes kept; empty where there is no file."""
        path = self.folder / name
        tree = parse_object(path)
        self.notes += check_fields(path, tree, TOKENIZER_TABLES[name])
        return tree


def parse_object(path: Path) -> dict[str, Any]:
    """Parses a file that holds one JSON object; empty where there is no file.

    Raises:
        DataError: not JSON, or not an object.
    """
    if not path.is_file():
        return {}
    content = read_json(path, FILE_LIMIT if path.name == "tokenizer.json" else SETTINGS_LIMIT)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_json(path: Path, limit: int = FILE_LIMIT) -> Any:
    """Parses a JSON file.

    Args:
        limit: bytes that it may have.

    Raises:
        DataError: too large, or not strict JSON.
    """
    return parse_json(read_file(path, limit), str(path))


@dataclass(frozen=True)
class StatedToken:
    """A token that a file gives an id.

    Attributes:
        where: file and field.
    """

    where: str
    id: int
    token: AddedToken


@dataclass
class SpecialTokens:
    """Holds what the files say of tokens, as a class of `transformers` gets it.

    Attributes:
        values: the settings, with what special_tokens_map.json says over them.
        stated: tokens with the ids that files give them, by rising id.
        named: special tokens by their names, standard ones and those of the model.
        extra: special tokens without a name; None where the files are silent.
        additional: the same by an older name, of special_tokens_map.json; a class may put its own in their place.
    """

    values: dict[str, Any]
    stated: list[StatedToken] = field(default_factory=list)
    named: dict[str, str | AddedToken | None] = field(default_factory=dict)
    extra: list[str | AddedToken] | None = None
    additional: list[AddedToken | str] | None = None

    @classmethod
    def read(cls, files: TokenizerFiles) -> SpecialTokens:
        """Joins the files.

        Raises:
            DataError: a token that is neither a text nor an object with its content, an id that is no number, or one
                id of two tokens.
        """
        where = files.folder / "tokenizer_config.json"
        values = dict(files.settings)
        if files.layout is not None:
            for name in _BEGIN_END:
                values.pop(name, None)
        if "additional_special_tokens" in values and not values.get("extra_special_tokens"):
            values["extra_special_tokens"] = values.pop("additional_special_tokens")
        out = cls(values)
        if "added_tokens_decoder" in values:
            stated = out.decoder(where, values.pop("added_tokens_decoder"))
        else:
            out.merge(files)
            stated = [*out.added(files), *_of_layout(files)]
        _check_count(where, "added_tokens", stated)
        out.stated = _each_its_own(stated)
        out._name(where)
        return out

    def decoder(self, where: Path, decoder: object) -> list[StatedToken]:
        """The tokens of `added_tokens_decoder`."""
        if not isinstance(decoder, Mapping):
            raise DataError(f"{where}: field 'added_tokens_decoder': expected an object of ids and tokens")
        return [
            StatedToken(f"{where}: added_tokens_decoder", _id(where, number), _token(where, number, value))
            for number, value in decoder.items()
        ]

    def merge(self, files: TokenizerFiles) -> None:
        """Puts special_tokens_map.json over the settings."""
        where = files.folder / "special_tokens_map.json"
        for name, value in files.special.items():
            merged: Any = value
            if name == "extra_special_tokens" and isinstance(value, list):
                stated = self.values.get(name)
                existing = list(stated) if isinstance(stated, list | dict) else []
                _check_count(where, name, [*existing, *value])
                known = {each for each in existing if isinstance(each, str | AddedToken)}
                fresh = [
                    _token(where, name, each, special=True) if isinstance(each, Mapping) else each for each in value
                ]
                is_known = (isinstance(each, str | AddedToken) and each in known for each in fresh)
                merged = existing + [each for each, skip in zip(fresh, is_known, strict=True) if not skip]
            elif isinstance(value, Mapping) and name != "extra_special_tokens":
                merged = _token(where, name, value, special=True)
            self.values[name] = merged

    def added(self, files: TokenizerFiles) -> list[StatedToken]:
        """The tokens of added_tokens.json; those that are named or extra special tokens are special."""
        where = files.folder / "added_tokens.json"
        special = {content_of(self.values[name]) for name in ATTRIBUTES if self.values.get(name)}
        extra = self.values.get("extra_special_tokens")
        special |= {content_of(token) for token in (extra if isinstance(extra, list) else [])}
        out = []
        for content, number in files.added.items():
            _check_length(where, "added_tokens", content)
            is_special = content in special
            token = AddedToken(content, rstrip=False, lstrip=False, normalized=not is_special, special=is_special)
            out.append(StatedToken(str(where), _id(where, number), token))
        return out

    def _name(self, where: Path) -> None:
        """Sorts the special tokens into those with a name and those without."""
        by_content = {entry.token.content: entry.token for entry in self.stated}
        for name in [name for name in self.values if name.endswith("_token")]:
            value = self.values[name]
            if isinstance(value, Mapping) and "content" in value:
                value = _token(where, name, value, special=name in ATTRIBUTES)
            if isinstance(value, str):
                _check_length(where, name, value)
            if value is None or isinstance(value, str | AddedToken):
                known = name in ATTRIBUTES and value is not None
                self.named[name] = by_content.get(content_of(value), value) if known else value
            elif name in ATTRIBUTES:
                raise DataError(
                    f"{where}: field {name!r} = {shown_value(value)}: expected a text or an object with its content"
                )
        for field_name in ("extra_special_tokens", "model_specific_special_tokens"):
            extra = self.values.get(field_name)
            if isinstance(extra, Mapping):
                self.named |= {str(name): _special(where, field_name, value) for name, value in extra.items()}
                self.values.pop(field_name)
        self.extra = self._list(where, "extra_special_tokens")
        self.additional = self._list(where, "additional_special_tokens")

    def _list(self, where: Path, name: str) -> list[str | AddedToken] | None:
        tokens = self.values.get(name)
        if tokens is None:
            return None
        if not isinstance(tokens, list):
            raise DataError(f"{where}: field {name!r} = {shown_value(tokens)}: expected a list or an object of tokens")
        _check_count(where, name, tokens)
        return [_special(where, name, value) for value in tokens]


def _check_count(where: Path, name: str, tokens: Sequence[object]) -> None:
    if len(tokens) > MAX_ADDED:
        raise DataError(f"{where}: field {name!r}: {len(tokens):,} tokens, more than {MAX_ADDED:,}; correct it")


def _each_its_own(stated: Sequence[StatedToken]) -> list[StatedToken]:
    """Sorts tokens by their ids; of one that several files state, a later file goes before an earlier one.

    Raises:
        DataError: two tokens have one id.
    """
    last: dict[int, StatedToken] = {}
    for entry in stated:
        other = last.get(entry.id)
        if other is not None and other.token.content != entry.token.content:
            raise DataError(
                f"{entry.where}: {entry.token.content!r} = {entry.id}: {other.token.content!r} has this id in "
                f"{other.where}; give each token an id of its own, or remove the file that is not the model's"
            )
        last[entry.id] = entry
    return [last[number] for number in sorted(last)]


def _of_layout(files: TokenizerFiles) -> Iterator[StatedToken]:
    """The added tokens of tokenizer.json."""
    where = files.folder / "tokenizer.json"
    tokens = (files.layout or {}).get("added_tokens") or []
    if not isinstance(tokens, list):
        raise DataError(f"{where}: field 'added_tokens': expected a list")
    for value in tokens:
        if not isinstance(value, Mapping):
            raise DataError(f"{where}: field 'added_tokens' = {shown_value(value)}: expected objects")
        number = _id(where, value.get("id"))
        yield StatedToken(f"{where}: added_tokens", number, _token(where, "added_tokens", value))


def _id(where: Path, value: object) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_IDS:
        return value
    raise DataError(
        f"{where}: the id {shown_value(value)} of an added token is no whole number below {MAX_IDS:,}; correct it"
    )


def _special(where: Path, name: str, value: object) -> str | AddedToken:
    if isinstance(value, str):
        _check_length(where, name, value)
    return value if isinstance(value, str | AddedToken) else _token(where, name, value, special=True)


def _check_length(where: Path, name: str, content: str) -> None:
    if len(content) > MAX_PIECE:
        raise DataError(
            f"{where}: field {name!r} = {shown_value(content)}: a token of {len(content):,} characters, more than "
            f"{MAX_PIECE:,}; correct it"
        )


def _token(where: Path, name: str, value: object, special: bool | None = None) -> AddedToken:
    """A token from an object with its content and flags."""
    if isinstance(value, AddedToken):
        return value
    content = value.get("content") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(content, str) or not content:
        raise DataError(
            f"{where}: field {name!r} = {shown_value(value)}: expected an object with the token's 'content'"
        )
    _check_length(where, name, content)
    flags = {flag: value[flag] for flag in _FLAGS if flag in value}
    bad = next((flag for flag, state in flags.items() if not isinstance(state, bool)), None)
    if bad is not None:
        raise DataError(f"{where}: field {name!r}: {bad!r} = {shown_value(flags[bad])}: expected true or false")
    return AddedToken(content, **(flags if special is None or "__type" in value else flags | {"special": special}))


def content_of(token: object) -> str:
    """The text of a token in any form that files have."""
    if isinstance(token, Mapping):
        return str(token.get("content"))
    return token.content if isinstance(token, AddedToken) else str(token)
