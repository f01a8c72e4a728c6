"""The rules of the tokenizer classes of `transformers`, each a pipeline around a vocabulary and merges.

A class takes nothing but the vocabulary from tokenizer.json, vocab files or a sentencepiece model, and sets normalizer,
pre-tokenizer, decoder and what stands around a text itself, by the values of tokenizer_config.json.

Source: huggingface/transformers 5.23, models/*/tokenization_*.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from pretune.errors import DataError
from pretune.text.tokenizer.library import library_errors
from pretune.text.tokenizer.sources import content_of

Vocab = dict[str, int] | list[tuple[str, float]]
Merges = list[tuple[str, str]]
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ENDOFTEXT = "<|endoftext|>"
_SENTENCEPIECE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@dataclass
class Parts:
    """Holds what a class builds a tokenizer of.

    Attributes:
        where: the file of the vocabulary, for messages.
        values: the settings; roles that no file names have the class's names.
        vocab: tokens and ids, or the subwords of a Unigram and their scores.
        merges: of a BPE.
        charsmap: the normalization table of a sentencepiece model.
        post_processor: of tokenizer.json.
        control: special and user-defined pieces of a sentencepiece model.
        additional: special tokens without a name, of special_tokens_map.json.
        unk_id: of the unknown piece of a sentencepiece model.
    """

    where: str
    values: dict[str, Any]
    vocab: Vocab
    merges: Merges = field(default_factory=list)
    charsmap: bytes | None = None
    post_processor: Any = None
    control: list[AddedToken] | None = None
    additional: list[AddedToken | str] | None = None
    unk_id: int | None = None

    def name(self, role: str) -> str:
        """The text of a special token.

        Raises:
            DataError: the settings say that there is none.
        """
        token = self.values.get(f"{role}_token")
        if token is None:
            raise DataError(f"{self.where}: {role}_token is null, and the tokenizer's class needs it; name the token")
        return content_of(token)

    def flag(self, name: str, default: bool) -> bool:
        """A value of the settings; null is False, as the class has it."""
        return bool(self.values.get(name, default))


@dataclass(frozen=True)
class ClassRules:
    """Says how one class makes a tokenizer.

    Attributes:
        model: the kind of its model, as tokenizer.json names it.
        files: the names under which it looks for a vocabulary beside tokenizer.json.
        roles: special tokens that it names where no file does.
        build: makes model, normalizer, pre-tokenizer and decoder.
        finish: sets what stands around a text, once all tokens are there; None: as tokenizer.json or the settings say.
        adds_again: special tokens are added a second time, without the flags that files give them.
        yields: tokenizer.json, `add_bos_token` and `add_eos_token` go before what `finish` sets.
    """

    model: Literal["WordPiece", "BPE", "Unigram"]
    files: tuple[str, ...]
    roles: Mapping[str, str | None]
    build: Callable[[Parts], tokenizers.Tokenizer]
    finish: Callable[[Parts, tokenizers.Tokenizer], None] | None = None
    yields: bool = False
    adds_again: bool = False


def _template(backend: tokenizers.Tokenizer, single: str, pair: str, tokens: Sequence[tuple[str, str]]) -> None:
    """Sets what stands around a text and a pair.

    Args:
        single: with names for special tokens.
        tokens: name in the template, and the token that has its id.
    """
    special = [(name, backend.token_to_id(token)) for name, token in tokens]
    missing = next((token for (_, token), (_, number) in zip(tokens, special, strict=True) if number is None), None)
    if missing is not None:
        raise DataError(f"{missing!r} is to stand around a text, and the vocabulary does not have it")
    try:
        backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    except ValueError as error:
        raise DataError(f"the special tokens {sorted(dict(tokens))} cannot stand around a text: {error}") from None


def set_begin_end(backend: tokenizers.Tokenizer, values: Mapping[str, Any]) -> None:
    """Sets the template of `add_bos_token` and `add_eos_token`; a token that is null is left out.

    Args:
        values: the settings.
    """
    wanted = (values.get(f"{role}_token") if values.get(f"add_{role}_token") else None for role in ("bos", "eos"))
    first, last = (None if token is None else content_of(token) for token in wanted)
    before, after = (f"{first}:0 " if first else "", f" {last}:0" if last else "")
    single = f"{before}$A:0{after}"
    pair = f"{single}{f' {first}:1' if first else ''} $B:1{f' {last}:1' if last else ''}"
    _template(backend, single, pair, [(token, token) for token in dict.fromkeys((first, last)) if token])


def _bert(parts: Parts) -> tokenizers.Tokenizer:
    assert isinstance(parts.vocab, dict)
    unknown = parts.name("unk")
    if unknown not in parts.vocab:
        raise DataError(
            f"{parts.where}: no {unknown!r}, the unknown token, in the vocabulary; add it, or correct unk_token (a "
            "vocab.txt has one token per line)"
        )
    backend = tokenizers.Tokenizer(models.WordPiece(parts.vocab, unk_token=unknown))
    bert_pipeline(
        backend,
        parts.flag("do_lower_case", True),
        parts.values.get("strip_accents"),
        parts.flag("tokenize_chinese_chars", True),
    )
    return backend


def bert_pipeline(
    backend: tokenizers.Tokenizer, lowercase: bool, strip_accents: bool | None, split_chinese: bool
) -> None:
    """Sets BERT's normalizer, pre-tokenizer and decoder. Source: google-research/bert, tokenization.py."""
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")


def bert_frame(backend: tokenizers.Tokenizer, cls: str = "[CLS]", sep: str = "[SEP]") -> None:
    """Sets `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`."""
    pair = f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1"
    _template(backend, f"{cls}:0 $A:0 {sep}:0", pair, [(cls, cls), (sep, sep)] if cls != sep else [(cls, cls)])


def _bert_finish(parts: Parts, backend: tokenizers.Tokenizer) -> None:
    bert_frame(backend, parts.name("cls"), parts.name("sep"))


def _byte_bpe(parts: Parts) -> tokenizers.Tokenizer:
    backend = _bpe(parts)
    gpt2_pipeline(backend, parts.flag("add_prefix_space", False))
    backend.post_processor = None  # what stands around a text is said elsewhere
    return backend


def gpt2_pipeline(backend: tokenizers.Tokenizer, prefix_space: bool = False) -> None:
    """Sets GPT-2's byte-level pre-tokenizer and decoder. Source: openai/gpt-2, encoder.py."""
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)


def _bpe(parts: Parts, **options: Any) -> tokenizers.Tokenizer:
    """A BPE that knows its merges by rank."""
    assert isinstance(parts.vocab, dict)
    defaults = {"continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
    with library_errors(f"{parts.where}: the merges do not go with the vocabulary"):
        return tokenizers.Tokenizer(models.BPE(parts.vocab, parts.merges, **(defaults | options)))


def _roberta_finish(parts: Parts, backend: tokenizers.Tokenizer) -> None:
    """`<s> a </s>` and `<s> a </s></s> b </s>`, all of segment 0."""
    cls, sep = parts.name("cls"), parts.name("sep")
    cls_id, sep_id = backend.token_to_id(cls), backend.token_to_id(sep)
    if cls_id is None or sep_id is None:
        missing = cls if cls_id is None else sep
        raise DataError(f"{missing!r} is to stand around a text, and the vocabulary does not have it")
    trim, prefix = parts.flag("trim_offsets", True), parts.flag("add_prefix_space", False)
    backend.post_processor = processors.RobertaProcessing((sep, sep_id), (cls, cls_id), trim, prefix)


def _neox(parts: Parts) -> tokenizers.Tokenizer:
    backend = _byte_bpe(parts)
    backend.normalizer = normalizers.NFC()
    return backend


def _neox_finish(parts: Parts, backend: tokenizers.Tokenizer) -> None:
    set_begin_end(backend, parts.values)


def _qwen2(parts: Parts) -> tokenizers.Tokenizer:
    backend = _bpe(parts, byte_fallback=False)
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_QWEN2), behavior="isolated", invert=False)
    prefix = parts.flag("add_prefix_space", False)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _openai(parts: Parts) -> tokenizers.Tokenizer:
    backend = _bpe(parts, end_of_word_suffix="</w>", unk_token=parts.name("unk"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    return backend


def _llama(parts: Parts) -> tokenizers.Tokenizer:
    assert isinstance(parts.vocab, dict)
    with library_errors(f"{parts.where}: the merges do not go with the vocabulary"):
        model = models.BPE(parts.vocab, parts.merges, fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    prefix = parts.values.get("add_prefix_space") in (None, True)
    scheme = ("always" if parts.flag("legacy", False) else "first") if prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if prefix else steps)
    return backend


def _unigram(parts: Parts, unk_id: int, steps: Sequence[Any], prefix: bool = True) -> tokenizers.Tokenizer:
    """A Unigram whose words are cut at white space."""
    assert isinstance(parts.vocab, list)
    if not 0 <= unk_id < len(parts.vocab):
        raise DataError(f"{parts.where}: the unknown piece is to have id {unk_id}, and there are {len(parts.vocab)}")
    backend = tokenizers.Tokenizer(models.Unigram(parts.vocab, unk_id=unk_id, byte_fallback=False))
    rules = [*steps, *([normalizers.Precompiled(parts.charsmap)] if parts.charsmap else [])]
    if rules:
        backend.normalizer = normalizers.Sequence(rules)
    scheme = "always" if prefix else "never"
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return backend


def _t5(parts: Parts) -> tokenizers.Tokenizer:
    """Sentinels are pieces behind those of a sentencepiece model, and special tokens."""
    count = _extra_ids(parts)
    assert isinstance(parts.vocab, list)
    if parts.control is not None:
        parts.vocab = [*parts.vocab, *((f"<extra_id_{n}>", 0.0) for n in reversed(range(count)))]
    stated = parts.control if parts.control is not None else parts.additional or []
    control = [AddedToken(token, special=True) if isinstance(token, str) else token for token in stated]
    sentinels = sum("<extra_id_" in token.content for token in control)
    if not sentinels:
        control += [AddedToken(f"<extra_id_{n}>", special=True) for n in range(count)]
    elif count and count != sentinels:
        raise DataError(f"{parts.where}: extra_ids = {count} is not the number of sentinels of the model; correct it")
    parts.control = control
    return _unigram(parts, 2, [])


def _extra_ids(parts: Parts) -> int:
    count = parts.values.get("extra_ids", 100)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 10_000:
        raise DataError(f"{parts.where}: field 'extra_ids' = {count!r}: expected a number from 0 to 10000")
    return count


def _t5_finish(parts: Parts, backend: tokenizers.Tokenizer) -> None:
    _template(backend, "$A </s>", "$A </s> $B </s>", [("</s>", parts.name("eos"))])


def _quotes() -> list[Any]:
    return [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]


def _albert(parts: Parts) -> tokenizers.Tokenizer:
    steps = _quotes()
    if not parts.flag("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if parts.flag("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    backend = _unigram(parts, 1, steps, parts.flag("add_prefix_space", True))
    _albert_finish(parts, backend)
    backend.post_processor = None
    return backend


def _albert_finish(parts: Parts, backend: tokenizers.Tokenizer) -> None:
    names = [("[CLS]", parts.name("cls")), ("[SEP]", parts.name("sep"))]
    _template(backend, "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", names)


def _xlnet(parts: Parts) -> tokenizers.Tokenizer:
    steps = [*_quotes(), normalizers.NFKD(), normalizers.StripAccents()]
    if parts.flag("do_lower_case", False):
        steps.append(normalizers.Lowercase())
    if parts.control is None and parts.additional is None:
        parts.control = [AddedToken(name, special=True) for name in ("<eop>", "<eod>")]
    mask = parts.values.get("mask_token")
    if isinstance(mask, str):
        parts.values["mask_token"] = AddedToken(mask, lstrip=True, rstrip=False)
    stated = parts.unk_id if parts.unk_id is not None else parts.values.get("unk_id", 0)
    return _unigram(parts, int(stated), steps)


def _xlnet_finish(parts: Parts, backend: tokenizers.Tokenizer) -> None:
    cls, sep = parts.name("cls"), parts.name("sep")
    single, pair = f"$A:0 {sep}:0 {cls}:2", f"$A:0 {sep}:0 $B:1 {sep}:1 {cls}:2"
    _template(backend, single, pair, [(token, token) for token in dict.fromkeys((sep, cls))])


def _xlm_roberta(parts: Parts) -> tokenizers.Tokenizer:
    """The pieces of a sentencepiece model lie one id later than in its file, behind four special tokens."""
    assert isinstance(parts.vocab, list)
    if parts.control is not None:
        front: list[tuple[str, float]] = [(parts.name(role), 0.0) for role in ("bos", "pad", "eos", "unk")]
        parts.vocab = [*front, *parts.vocab[3:], (parts.name("mask"), 0.0)]
    return _unigram(parts, 3, [], parts.flag("add_prefix_space", True))


def _xlm_roberta_finish(parts: Parts, backend: tokenizers.Tokenizer) -> None:
    bos, eos = parts.name("bos"), parts.name("eos")
    tokens = [(token, token) for token in dict.fromkeys((bos, eos))]
    _template(backend, f"{bos} $A {eos}", f"{bos} $A {eos} {eos} $B {eos}", tokens)


_BERT_ROLES = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
_FRAMED = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
_ROBERTA_ROLES = {f"{role}_token": token for role, token in _FRAMED.items()}
_GPT2_ROLES = {"unk_token": _ENDOFTEXT, "bos_token": _ENDOFTEXT, "eos_token": _ENDOFTEXT, "pad_token": None}
_ALBERT_ROLES = {
    **_BERT_ROLES,
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
}
_VOCAB_MERGES = ("vocab.json",)
CLASSES: Mapping[str, ClassRules] = {
    "BertTokenizer": ClassRules("WordPiece", ("vocab.txt",), _BERT_ROLES, _bert, _bert_finish),
    "GPT2Tokenizer": ClassRules("BPE", _VOCAB_MERGES, _GPT2_ROLES, _byte_bpe),
    "GPTNeoXTokenizer": ClassRules(
        "BPE", _VOCAB_MERGES, {**_GPT2_ROLES, "pad_token": "<|padding|>"}, _neox, _neox_finish
    ),
    "Qwen2Tokenizer": ClassRules(
        "BPE", _VOCAB_MERGES, {**_GPT2_ROLES, "bos_token": None, "pad_token": _ENDOFTEXT}, _qwen2, adds_again=True
    ),
    "OpenAIGPTTokenizer": ClassRules("BPE", _VOCAB_MERGES, {"unk_token": "<unk>"}, _openai),
    "RobertaTokenizer": ClassRules("BPE", _VOCAB_MERGES, _ROBERTA_ROLES, _byte_bpe, _roberta_finish),
    "LlamaTokenizer": ClassRules("BPE", ("tokenizer.model",), _SENTENCEPIECE, _llama),
    "T5Tokenizer": ClassRules(
        "Unigram",
        ("spiece.model",),
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        _t5,
        _t5_finish,
    ),
    "AlbertTokenizer": ClassRules("Unigram", ("spiece.model",), _ALBERT_ROLES, _albert, _albert_finish, yields=True),
    "XLNetTokenizer": ClassRules(
        "Unigram",
        ("spiece.model",),
        _ROBERTA_ROLES | {"sep_token": "<sep>", "cls_token": "<cls>"},
        _xlnet,
        _xlnet_finish,
    ),
    "XLMRobertaTokenizer": ClassRules(
        "Unigram", ("sentencepiece.bpe.model",), _ROBERTA_ROLES, _xlm_roberta, _xlm_roberta_finish
    ),
}
"""By the name of the class."""
