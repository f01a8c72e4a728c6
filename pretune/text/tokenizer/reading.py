"""Reads the tokenizer of a folder, by the rules of the class that its files name.

    files --parsed, checked--> TokenizerFiles --class chosen--> vocabulary --> pipeline --> special and added tokens

The ids are those of `transformers` 5.23 on the same folder; files that it reads otherwise than they say are refused.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from pretune.errors import DataError, MissingInputError
from pretune.missing_paths import no_such_folder
from pretune.seals import check
from pretune.text.tokenizer import sentencepiece
from pretune.text.tokenizer.added import add_tokens
from pretune.text.tokenizer.class_table import GENERIC, MARIAN, OTHERS, choose_class
from pretune.text.tokenizer.classes import CLASSES, ClassRules, Parts, set_begin_end
from pretune.text.tokenizer.files import TOKENIZER_FILES
from pretune.text.tokenizer.folder import transformer_folder
from pretune.text.tokenizer.gguf import read_gguf_tokenizer
from pretune.text.tokenizer.layout_check import check_layout
from pretune.text.tokenizer.library import UNREADABLE, library_errors
from pretune.text.tokenizer.marian import LIMITS, SOURCE, read_marian
from pretune.text.tokenizer.sources import SpecialTokens, StatedToken, TokenizerFiles, read_json
from pretune.text.tokenizer.template import read_templates
from pretune.text.tokenizer.vocabulary import stages
from pretune.text.tokenizer.vocabulary_files import (
    compare_merges,
    parts_of_layout,
    read_lines,
    read_merges,
)

_LAYOUT = "tokenizer.json"


@dataclass
class ReadTokenizer:
    """Holds what was read.

    Attributes:
        backend: text to ids and back.
        settings: the values of tokenizer_config.json, and of the files that go before it.
        notes: what is not done of the files, as sentences.
    """

    backend: tokenizers.Tokenizer
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def read_tokenizer(path: Path) -> ReadTokenizer:
    """Reads a folder, or one of the known files with those beside it.

    Raises:
        MissingInputError: no such path, or a folder without a known file.
        DataError: a file that cannot be read as what it claims to be, or that says what is not done here.
    """
    if not path.exists():
        raise no_such_folder(path, "tokenizer")
    if path.suffix == ".gguf":
        return ReadTokenizer(*read_gguf_tokenizer(path))
    path = transformer_folder(path) if path.is_dir() else path
    folder = path if path.is_dir() else path.parent
    check(folder, (*TOKENIZER_FILES, "config.json"))
    files = TokenizerFiles.read(folder, layout=path.is_dir() or path.name == _LAYOUT)
    if path.is_file() and path.suffix == ".json" and path.name not in (_LAYOUT, "vocab.json"):
        files.layout = _object(path)
    file = path if path.is_file() else None
    return _Reader(files, file, folder / _LAYOUT if file is None else file).read()


@dataclass
class _Reader:
    """Reads one folder.

    Attributes:
        file: the vocabulary that was asked for; None: what the class looks for.
        where: of tokenizer.json, for messages.
    """

    files: TokenizerFiles
    file: Path | None
    where: Path

    def read(self) -> ReadTokenizer:
        layout = self.files.layout
        if layout is not None:
            check_layout(self.where, layout)
        name = choose_class(self.files.config, self.files.settings, self._is_byte_level)
        if name == GENERIC and layout is None:
            name = self._by_file()
        if name in OTHERS:
            raise DataError(
                f"{self.files.folder / 'tokenizer_config.json'}: field 'tokenizer_class': {name} has rules of its "
                "own for these files, which are not known here; save its tokenizer.json with tokenizer_class "
                "PreTrainedTokenizerFast and use that"
            )
        if name == MARIAN:
            return self._marian()
        if name == GENERIC:
            return self._generic() if layout is not None else self._sentencepiece()
        return self._of_class(name, CLASSES[name])

    def _is_byte_level(self) -> bool:
        """Whether tokenizer.json names ByteLevel anywhere."""
        return self.files.layout is not None and '"ByteLevel"' in self.where.read_text(encoding="utf-8")

    def _by_file(self) -> str:
        """The class that files are for where none is named."""
        names = {"vocab.txt": "BertTokenizer", "vocab.json": "GPT2Tokenizer"}
        here = [n for n in (*names, *sentencepiece.FILE_NAMES) if (self.files.folder / n).is_file()]
        if self.file is None and len(here) > 1:
            raise DataError(
                f"{self.files.folder}: {' and '.join(here)} are files of several tokenizers, and none is named; name "
                "its class as tokenizer_class in tokenizer_config.json, or remove the files that are not the model's"
            )
        file = self.file or next((self.files.folder / n for n in names if (self.files.folder / n).is_file()), None)
        if file is not None and file.name == "vocab.json" and (self.files.folder / SOURCE).is_file():
            return MARIAN
        return GENERIC if file is None else "BertTokenizer" if file.suffix == ".txt" else names.get(file.name, GENERIC)

    def _generic(self) -> ReadTokenizer:
        """Takes tokenizer.json as it is."""
        with library_errors(f"{self.where}: {UNREADABLE}"):
            backend = tokenizers.Tokenizer.from_file(str(self.where))
        return self._finished(backend, {}, None, SpecialTokens.read(self.files))

    def _of_class(self, name: str, rules: ClassRules) -> ReadTokenizer:
        """Builds what a class makes of the vocabulary."""
        tokens = SpecialTokens.read(self.files)
        values = {**rules.roles, **tokens.values, **tokens.named}
        parts = self._parts(name, rules, values)
        parts.additional = tokens.additional
        with library_errors(f"{parts.where}: {name} cannot be made of it"):
            backend = rules.build(parts)
        roles = {**rules.roles, **{role: parts.values.get(role) for role in rules.roles if role not in tokens.named}}
        if "mask_token" in tokens.named and isinstance(tokens.named["mask_token"], str):
            tokens.named["mask_token"] = parts.values.get("mask_token")
        explicit = any(f"add_{end}_token" in tokens.values for end in ("bos", "eos"))
        settings = add_tokens(backend, tokens, roles, parts.control, again=rules.adds_again)
        lacking = sorted({str(token) for role, token in roles.items() if token is not None and role not in settings})
        if lacking:
            self.files.notes.append(
                f"{parts.where}: {name} names {', '.join(lacking)}, not in the vocabulary: left out"
            )
        if parts.post_processor is not None:
            backend.post_processor = parts.post_processor
        if rules.finish is not None and not (rules.yields and (explicit or parts.post_processor is not None)):
            rules.finish(parts, backend)
        elif explicit or parts.post_processor is None:
            set_begin_end(backend, parts.values)
        _say_frame(backend)
        self._compare(backend, has_ids_of_model_file=name != "XLMRobertaTokenizer")
        if self.files.layout is not None:
            self._note_rebuilt(name, backend)
        return ReadTokenizer(backend, _settings(tokens, settings), self.files.notes)

    def _parts(self, name: str, rules: ClassRules, values: dict[str, Any]) -> Parts:
        """The vocabulary of tokenizer.json, else of the files that the class looks for."""
        if self.files.layout is not None:
            return parts_of_layout(self.where, self.files.layout, name, rules.model, values)
        folder = self.files.folder
        file = self.file or next((folder / n for n in rules.files if (folder / n).is_file()), None)
        if file is None:
            raise MissingInputError(
                f"{folder}: {name} is named, and neither tokenizer.json nor {' or '.join(rules.files)} is here; add "
                "the file, or name the class of those that are (tokenizer_class of tokenizer_config.json)"
            )
        if rules.model == "WordPiece":
            return Parts(str(file), values, read_lines(file))
        if rules.files == ("vocab.json",):
            return Parts(str(file), values, *read_merges(file))
        pieces = sentencepiece.read_pieces(file, rules.model)
        return Parts(
            str(file),
            values,
            pieces.vocab,
            pieces.merges,
            pieces.charsmap,
            control=pieces.control,
            unk_id=pieces.unk_id,
        )

    def _sentencepiece(self) -> ReadTokenizer:
        """Reads a sentencepiece model for which no class is named."""
        folder, settings = self.files.folder, self.files.settings
        file = self.file or next((folder / n for n in sentencepiece.FILE_NAMES if (folder / n).is_file()), None)
        if file is None:
            raise MissingInputError(
                f"{folder}: no tokenizer.json, vocab.txt, vocab.json + merges.txt (or source.spm) or spiece.model here"
            )
        tokens = SpecialTokens.read(self.files)
        if self.file is None and file.name == "tokenizer.model":
            out = self._finished(*sentencepiece.read_generic(file, tokens), tokens=tokens)
            out.notes.append(
                f"{file}: no tokenizer class with rules of its own is named, so that it is read as `transformers` 5 "
                "does, without a space before a text; name LlamaTokenizer as tokenizer_class for the file's own rules"
            )
            return out
        backend = sentencepiece.read_sentencepiece(file, settings)
        return ReadTokenizer(backend, _settings(tokens, add_tokens(backend, tokens, {})), self.files.notes)

    def _marian(self) -> ReadTokenizer:
        folder = self.files.folder
        missing = [name for name in ("vocab.json", SOURCE) if not (folder / name).is_file()]
        if missing:
            raise MissingInputError(
                f"{folder}: {MARIAN} is named, and {' and '.join(missing)} is not here; add it, or name "
                "PreTrainedTokenizerFast as tokenizer_class, where tokenizer.json is to be read"
            )
        tokens = SpecialTokens.read(self.files)
        backend = read_marian(folder, read_json(folder / "vocab.json"), tokens.values | tokens.named)
        special = {*map(str, (*tokens.named.values(), *(tokens.extra or tokens.additional or ())))}
        tokens.stated = [_of_marian(entry, special) for entry in tokens.stated]
        self.files.notes.append(f"{folder}: {LIMITS}")
        return ReadTokenizer(backend, _settings(tokens, add_tokens(backend, tokens, {})), self.files.notes)

    def _finished(
        self,
        backend: tokenizers.Tokenizer,
        roles: Mapping[str, str | AddedToken | None],
        control: list[AddedToken] | None,
        tokens: SpecialTokens,
    ) -> ReadTokenizer:
        """Adds the tokens of the generic class and what stands around a text."""
        settings = add_tokens(backend, tokens, roles, control)
        if self.files.layout is None:
            set_begin_end(backend, {**roles, **tokens.values, **tokens.named})
        _say_frame(backend)
        self._compare(backend)
        return ReadTokenizer(backend, _settings(tokens, settings), self.files.notes)

    def _compare(self, backend: tokenizers.Tokenizer, has_ids_of_model_file: bool = False) -> None:
        """Refuses a vocabulary file beside tokenizer.json that disagrees with it."""
        layout, folder = self.files.layout, self.files.folder
        if layout is None or self.file is not None:
            return
        known = backend.get_vocab(with_added_tokens=True)
        others: dict[str, Any] = {"vocab.txt": read_lines, "vocab.json": read_json}
        if has_ids_of_model_file:
            others |= dict.fromkeys(sentencepiece.FILE_NAMES, sentencepiece.read_ids)
        for name, read in others.items():
            path = folder / name
            other = read(path) if path.is_file() else {}
            for token, number in sorted(other.items(), key=str) if isinstance(other, dict) else ():
                if known.get(token) != number:
                    raise DataError(
                        f"{path}: the token {token!r} has id {number}, and {known.get(token)} in tokenizer.json beside "
                        "it; remove the file that does not belong to the model"
                    )
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file() and layout["model"].get("merges"):
            compare_merges(folder / "merges.txt", read_merges(folder / "vocab.json")[1], layout["model"]["merges"])

    def _note_rebuilt(self, name: str, backend: tokenizers.Tokenizer) -> None:
        """Says which parts of tokenizer.json the class puts its own into the place of."""
        own = {part: _state(getattr(backend, part)) for part in ("normalizer", "pre_tokenizer", "decoder")}
        written = self.files.layout or {}
        steps = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
        parts = [
            part
            for part, plural in steps.items()
            if not _same(stages(own[part], plural), _stages(written, part, plural))
        ]
        if parts:
            self.files.notes.append(
                f"{self.where}: {name} sets {', '.join(parts)} by its own rules and the values of "
                "tokenizer_config.json, not by this file, as in `transformers` 5"
            )


def _of_marian(entry: StatedToken, special: Container[str]) -> StatedToken:
    """An added token as Marian's class has it: looked for before anything else, special where a list names it."""
    flag = next((name for name in ("single_word", "lstrip", "rstrip") if getattr(entry.token, name)), None)
    if flag is not None:
        raise DataError(
            f"{entry.where}: {entry.token.content!r}: '{flag}' is not known here for Marian's tokens; set it to false"
        )
    content = entry.token.content
    return replace(entry, token=AddedToken(content, normalized=False, special=content in special))


def _stages(layout: Mapping[str, Any], part: str, plural: str) -> Any:
    """The steps of a part of a foreign tokenizer.json; the part itself where it has another form."""
    try:
        return stages(layout.get(part), plural)
    except (KeyError, TypeError):
        return layout.get(part)


def _same(own: Any, written: Any) -> bool:
    """Whether all that a file says of a part is so in ours; what it leaves out has its usual value."""
    if isinstance(own, dict) and isinstance(written, dict):
        return all(_same(own[name], value) for name, value in written.items() if name in own and name != "trim_offsets")
    if isinstance(own, list) and isinstance(written, list):
        return len(own) == len(written) and all(map(_same, own, written))
    return bool(own == written)


def _settings(tokens: SpecialTokens, roles: dict[str, str | None]) -> dict[str, Any]:
    """The values to keep: plain ones, with the roles that the tokenizer has; added tokens stand in tokenizer.json."""
    out: dict[str, Any] = {
        name: value for name, value in tokens.values.items() if not name.endswith("_token") and _is_plain(value)
    }
    out |= {name: value for name, value in tokens.values.items() if name in ("add_bos_token", "add_eos_token")}
    if out.get("model_max_length") is None and "max_len" in out:
        out["model_max_length"] = out["max_len"]
    return out | roles


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _state(component: Any) -> Any:
    """A normalizer or the like as tokenizer.json has it."""
    return None if component is None else json.loads(component.__getstate__())


def _say_frame(backend: tokenizers.Tokenizer) -> None:
    """Writes down that nothing stands around a text, where the files leave it out."""
    if read_templates({"post_processor": _state(backend.post_processor)}) is not None:
        return
    bare = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    old = backend.post_processor
    backend.post_processor = bare if old is None else processors.Sequence([old, bare])


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a tokenizer.json: no field 'model'")
    return content
