"""Trains a tokenizer on raw text: WordPiece (BERT), byte-level BPE (GPT-2), Unigram (SentencePiece).

    texts --spooled to disk, characters counted--> alphabet --second pass, words bounded--> trainer of `tokenizers`
                                                                                        --> Tokenizer

The text is read once and never held in memory; the trainers keep the counts of different words. The same texts give the
same tokenizer: where a trainer's result hangs on the order of a hash table, what it hangs on is fixed here.
"""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import tokenizers
from pydantic import Field, model_validator
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pretune.config import Config
from pretune.errors import UsageError
from pretune.text.tokenizer.classes import bert_frame, bert_pipeline, gpt2_pipeline
from pretune.text.tokenizer.files import Settings
from pretune.text.tokenizer.spool import Bound, Spool, TrainProgress, run_trainer
from pretune.text.tokenizer.tokenizer import Tokenizer

MAX_WORDPIECE = 100  # characters of a word; a longer one is the unknown token, whatever is learned from it
MAX_WORD = 1000  # characters of what trainers see as one word; their time grows with its square
COVERAGE = 0.995  # fraction of all characters that the alphabet must hold
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_UNIGRAM_SPECIAL = ("<s>", "</s>", "<pad>", "<mask>")
_BPE_SPECIAL: Mapping[
    str, Mapping[str, tuple[str, ...]]
] = {  # by whose they are: the tokens from id 0 on, and their roles
    "gpt2": {"<|endoftext|>": ("bos", "eos")},
    "roberta": {
        "<s>": ("bos", "cls"),
        "<pad>": ("pad",),
        "</s>": ("eos", "sep"),
        "<unk>": ("unk",),
        "<mask>": ("mask",),
    },
    "bert": {name: (name[1:-1].lower(),) for name in BERT_SPECIAL},
}
_BPE_TEMPLATES = {
    "roberta": ("<s>:0 $A:0 </s>:0", "<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0"),
    "bert": ("[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"),
}
_BYTE_SCORE = -1000.0  # a byte stands for a character only where no subword does
_NUMBERING = 1e-4
_SCORE_DIGITS = 7  # the trainer's sums differ from run to run in the eleventh


class TokenizerConfig(Config):
    """What tokenizer to train.

    Attributes:
        kind: "wordpiece" as in BERT, "bpe" on bytes as in GPT-2, "unigram" as in SentencePiece.
        vocab_size: number of tokens, special ones included; a small corpus yields fewer.
        special_tokens: for BPE: "gpt2" has one that ends a text, for decoders; "roberta" (`<s> </s> <pad> <mask>`, for
            RoBERTa, BART and T5) and "bert" (`[CLS] [SEP] [PAD] [MASK]`, for ModernBERT, BERT and the like) have what
            masked language models need, and stand around texts.
        lowercase: for WordPiece: lowercase the text.
        strip_accents: for WordPiece: Latin letters lose their accents, so that "möchte" and "mochte" are one word; the
            signs of other scripts, such as kana marks and the vowel signs of Hindi, are always kept.
        split_chinese: for WordPiece: treat every Chinese character as a word.
        byte_fallback: for Unigram: characters outside the vocabulary become bytes, not the unknown token.
        min_frequency: for WordPiece and BPE: how often a pair must occur to be merged.
        max_bytes: stop reading text after this many bytes.
        max_length: maximal number of tokens of an input, written as `model_max_length` for other libraries.
        sentinels: number of sentinel tokens `<extra_id_0>`, `<extra_id_1>` ... for span corruption, on top of
            `vocab_size`.
    """

    kind: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    vocab_size: int = Field(default=16000, ge=8, le=1 << 20)
    special_tokens: Literal["gpt2", "roberta", "bert"] | None = None
    lowercase: bool | None = None
    strip_accents: bool = False
    split_chinese: bool = True
    byte_fallback: bool = False
    min_frequency: int = Field(default=2, ge=1)
    max_bytes: int = Field(default=1 << 30, ge=1)
    max_length: int = Field(default=512, ge=1)
    sentinels: int = Field(default=0, ge=0, le=10_000)

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind != "wordpiece" and (self.lowercase or self.strip_accents):
            raise ValueError('lowercase and strip_accents are for kind = "wordpiece"')
        if self.kind != "bpe" and self.special_tokens is not None:
            raise ValueError('special_tokens is for kind = "bpe"; the other kinds have all that a model needs')
        if self.kind != "unigram" and self.byte_fallback:
            raise ValueError('byte_fallback is for kind = "unigram" ("bpe" is made of bytes anyway)')
        return self


def train_tokenizer(
    texts: Iterable[str],
    config: TokenizerConfig | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
) -> Tokenizer:
    """Train a tokenizer; its `notes` say what of the text it did not learn from.

    Args:
        texts: documents; read once, held on disk while training.
        progress: is called with each document that is read, and ten times a second while training.

    Raises:
        DataError: no text but white space.
        UsageError: `vocab_size` cannot hold the characters of the text.
    """
    config = config or TokenizerConfig()
    train = {"wordpiece": _train_wordpiece, "bpe": _train_bpe, "unigram": _train_unigram}[config.kind]
    with tempfile.SpooledTemporaryFile(max_size=32 << 20) as file:
        spool = Spool.fill(file, texts, config.max_bytes, progress)
        spool.bound = _bound(spool.counts, config)
        backend, settings = train(spool, config)
    backend.add_special_tokens([f"<extra_id_{number}>" for number in range(config.sentinels)])
    tokenizer = Tokenizer(backend, {"model_max_length": config.max_length, **settings})
    tokenizer.notes += spool.bound.notes()
    if config.strip_accents:
        accented = sum(n for char, n in spool.counts.items() if _is_accented(char))
        total = spool.counts.total()
        tokenizer.notes.append(
            f"strip_accents: {accented:,} of {total:,} characters lose an accent ({accented / total:.2%})"
        )
    return tokenizer


def _train_wordpiece(spool: Spool, config: TokenizerConfig) -> tuple[tokenizers.Tokenizer, Settings]:
    """The trainer numbers `##x` subwords in the order of a hash table and breaks ties by number; so they are given."""
    backend = tokenizers.Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    _wordpiece_pipeline(backend, config)
    alphabet = _alphabet(spool.counts, backend.normalizer, config, len(BERT_SPECIAL), 2)
    inner = [f"##{character}" for character in alphabet if _goes_on(character, config.split_chinese)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*BERT_SPECIAL, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    run_trainer(backend, iter(spool), trainer, spool.progress)
    learned = sorted(backend.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    first = [*BERT_SPECIAL, *alphabet, *inner]
    order = first + [subword for subword, _ in learned if subword not in set(first)]
    vocab = {subword: number for number, subword in enumerate(order)}
    out = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    out.add_special_tokens(list(BERT_SPECIAL))
    _wordpiece_pipeline(out, config)
    bert_frame(out)
    settings = {f"{name[1:-1].lower()}_token": name for name in BERT_SPECIAL}
    return out, {
        **settings,
        "do_lower_case": config.lowercase is not False,
        "strip_accents": config.strip_accents,
        "tokenize_chinese_chars": config.split_chinese,
    }


def _wordpiece_pipeline(backend: tokenizers.Tokenizer, config: TokenizerConfig) -> None:
    """Sets BERT's pipeline; its own way to strip accents takes the signs of every script, so ours follows it."""
    bert_pipeline(backend, config.lowercase is not False, False, config.split_chinese)
    if config.strip_accents:
        strip = normalizers.Replace(Regex(r"(?<=\p{Latin})\p{Mn}+"), "")
        backend.normalizer = normalizers.Sequence([backend.normalizer, normalizers.NFD(), strip, normalizers.NFC()])


def _is_accented(char: str) -> bool:
    """Whether a character is a Latin letter with an accent, or an accent that stands alone behind its letter."""
    base = unicodedata.normalize("NFD", char)
    return "\u0300" <= char <= "\u036f" or (len(base) > 1 and unicodedata.name(base[0], "").startswith("LATIN"))


def _train_bpe(spool: Spool, config: TokenizerConfig) -> tuple[tokenizers.Tokenizer, Settings]:
    """A mask takes the space before it, as the word did in whose place it stands."""
    style = config.special_tokens or "gpt2"
    special = _BPE_SPECIAL[style]
    if config.vocab_size < 256 + len(special):
        names = " ".join(special)
        raise UsageError(
            f"vocab_size = {config.vocab_size} is too small: 256 bytes and {names} need {256 + len(special)}"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    gpt2_pipeline(backend)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[AddedToken(name, lstrip="mask" in roles, special=True) for name, roles in special.items()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    run_trainer(backend, iter(spool), trainer, spool.progress)
    if style in _BPE_TEMPLATES:
        single, pair = _BPE_TEMPLATES[style]
        ids = [(name, backend.token_to_id(name)) for name, roles in special.items() if {"cls", "sep"} & set(roles)]
        template = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    settings: Settings = {f"{role}_token": name for name, roles in special.items() for role in roles}
    return backend, settings | {"add_prefix_space": False}


def _train_unigram(spool: Spool, config: TokenizerConfig) -> tuple[tokenizers.Tokenizer, Settings]:
    """Special tokens stand outside the model's subwords: text cannot be cut into them."""
    byte_subwords = [(f"<0x{byte:02X}>", _BYTE_SCORE) for byte in range(256 if config.byte_fallback else 0)]
    reserved = 1 + len(_UNIGRAM_SPECIAL) + len(byte_subwords)
    draft = tokenizers.Tokenizer(models.Unigram())
    draft.normalizer, draft.pre_tokenizer = _unigram_normalizer(), _metaspace()
    kept = set(_alphabet(spool.counts, draft.normalizer, config, reserved, 1))
    if config.byte_fallback:  # else "<0x41>" in a text could be spelt in no other way than as that byte
        kept |= set(map(chr, range(0x21, 0x7F)))
    rare = {
        ord(character): " "
        for character in spool.counts
        if not kept.issuperset(draft.normalizer.normalize_str(character))
    }
    trainer = trainers.UnigramTrainer(
        vocab_size=config.vocab_size - reserved + 1,
        special_tokens=["<unk>"],
        unk_token="<unk>",
        initial_alphabet=sorted(kept),
        show_progress=False,
    )
    usable = (text.translate(rare) for text in spool) if rare else iter(spool)
    run_trainer(draft, usable, trainer, spool.progress)
    subwords = _scores(draft)
    out = tokenizers.Tokenizer(
        models.Unigram([("<unk>", 0.0), *byte_subwords, *subwords], unk_id=0, byte_fallback=config.byte_fallback)
    )
    out.add_special_tokens(["<unk>", *_UNIGRAM_SPECIAL])
    out.normalizer, out.pre_tokenizer = _unigram_normalizer(), _metaspace()
    metaspace = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    out.decoder = decoders.Sequence([decoders.ByteFallback(), metaspace]) if config.byte_fallback else metaspace
    out.post_processor = processors.TemplateProcessing(
        single="<s>:0 $A:0 </s>:0",
        pair="<s>:0 $A:0 </s>:0 $B:1 </s>:1",
        special_tokens=[(name, out.token_to_id(name)) for name in ("<s>", "</s>")],
    )
    start, end, pad, mask = _UNIGRAM_SPECIAL
    roles = {"bos": start, "cls": start, "eos": end, "sep": end, "pad": pad, "mask": mask, "unk": "<unk>"}
    return out, {f"{role}_token": name for role, name in roles.items()}


def _unigram_normalizer() -> Any:
    steps: Sequence[Any] = (normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip())
    return normalizers.Sequence(list(steps))


def _metaspace() -> Any:
    return pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)


def _scores(draft: tokenizers.Tokenizer) -> list[tuple[str, float]]:
    """The trained subwords, likeliest first, without what differs from run to run.

    That is the noise of sums in changing order, and the numbering, in the order of a hash table, that the trainer
    adds to the lowest score for characters which no subword was needed for: these all get the lowest.
    """
    scored = json.loads(draft.to_str())["model"]["vocab"]
    scores = {subword: round(score, _SCORE_DIGITS) for subword, score in scored if subword != "<unk>"}
    lowest = min(scores.values())
    numbered = lowest + _NUMBERING * sum(len(subword) == 1 for subword in scores)
    level = {subword: lowest if len(subword) == 1 and score < numbered else score for subword, score in scores.items()}
    return sorted(level.items(), key=lambda item: (-item[1], item[0]))


def _alphabet(
    counts: Counter[str], normalizer: Any, config: TokenizerConfig, reserved: int, max_cost: int
) -> list[str]:
    """The commonest characters as the normalizer leaves them, in code point order, in at most 3/4 of the free ids.

    Args:
        reserved: ids that are taken already.
        max_cost: subwords that a character may need: itself, and itself inside a word.

    Raises:
        UsageError: less than 99.5 % of all characters would be in it.
    """
    left: Counter[str] = Counter()
    for character, count in counts.items():
        for part in normalizer.normalize_str(character):
            if not part.isspace():
                left[part] += count
    total = sum(left.values())
    ranked = sorted(left.items(), key=lambda item: (-item[1], item[0]))
    max_size = (config.vocab_size - reserved) * 3 // 4
    kept: list[str] = []
    covered = needed = used = 0
    for character, count in ranked:
        cost = max_cost if _goes_on(character, config.split_chinese) else 1
        if covered < COVERAGE * total:
            needed += cost
        covered += count
        used += cost
        if used <= max_size:
            kept.append(character)
    if needed > max_size:
        min_size = reserved + -(-needed * 4 // 3)
        raise UsageError(
            f"vocab_size = {config.vocab_size} is too small: the characters of this text and {reserved} other tokens "
            f"ask for {min_size} or more"
        )
    return sorted(kept)


def _bound(counts: Counter[str], config: TokenizerConfig) -> Bound:
    """What a trainer may be given as one word: what WordPiece can use, and elsewhere what is no word any more.

    Args:
        counts: of every character of the text.
    """
    if config.kind == "unigram":
        return Bound.of(MAX_WORD, [r"\S"])
    if config.kind == "bpe":
        groups: dict[str, str] = {}
        for char in counts:
            major = "Z" if char.isspace() else unicodedata.category(char)[0]
            kind = major if major in "LNZ" else "other"
            groups[kind] = groups.get(kind, "") + char
        return Bound.of(MAX_WORD, [f"[{re.escape(group)}]" for group in groups.values()])
    ends = "".join(char for char in counts if char.isspace() or not _goes_on(char, config.split_chinese))
    return Bound.of(MAX_WORDPIECE, [f"[^{re.escape(ends)}]" if ends else "."], is_left_out=True)


def _goes_on(character: str, split_chinese: bool) -> bool:
    """Whether BERT's splitting lets a character stand inside a word."""
    chinese = split_chinese and ("\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff")
    signs = "!" <= character <= "/" or ":" <= character <= "@" or "[" <= character <= "`" or "{" <= character <= "~"
    return not (chinese or signs or unicodedata.category(character).startswith("P"))
