"""What metrics take as words: by the script of a text, since Chinese, Japanese and Thai put no spaces between words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from pretune.errors import UsageError

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_UNSPACED = f"{_HAN}{_KANA}\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff"
_SCRIPTS = {  # a script and the code of the language that stands for it
    "zh": re.compile(f"[{_HAN}]"),
    "ja": re.compile(f"[{_KANA}]"),
    "ko": re.compile("[\uac00-\ud7af]"),
    "th": re.compile("[\u0e00-\u0e7f]"),
    "lo": re.compile("[\u0e80-\u0eff]"),
    "my": re.compile("[\u1000-\u109f]"),
    "km": re.compile("[\u1780-\u17ff]"),
    "ru": re.compile("[\u0400-\u04ff]"),
    "el": re.compile("[\u0370-\u03ff]"),
    "ar": re.compile("[\u0600-\u06ff]"),
    "he": re.compile("[\u0590-\u05ff]"),
    "hi": re.compile("[\u0900-\u097f]"),
}
_UNSPACED_CODES = ("zh", "ja", "th", "lo", "my", "km")
_LATIN = "en de fr es it pt nl da sv no nb nn fi is pl cs sk sl hr hu ro et lv lt tr id ms vi ca eu"
_CODES = (  # of ISO 639-1
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da "
    "de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii "
    "ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn "
    "mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si "
    "sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi "
    "yo za zh zu"
)
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")
_MOST = 0.3  # of the characters that are no space, which a script must have to be that of the text
_SOME = 0.02  # of them in kana: text in Han with so many is Japanese
_SAMPLE = 2000  # texts that are read to find a language


def language_of(texts: Sequence[str]) -> str:
    """The code of a language in the script of the texts: `zh`, `ja`, `ko`, ...; `en` for Latin script."""
    step = max(1, len(texts) // _SAMPLE)
    letters = [char for text in texts[::step] for char in text if not char.isspace()]
    joined = "".join(letters)
    size = max(len(joined), 1)
    counts = Counter({code: len(pattern.findall(joined)) for code, pattern in _SCRIPTS.items()})
    if counts["ja"] >= _SOME * size and counts["ja"] + counts["zh"] >= _MOST * size:
        return "ja"
    code, count = counts.most_common(1)[0]
    return code if count >= _MOST * size else "en"


def base_language(code: str) -> str:
    """The language of a code with a region or a script: `zh` of `zh-CN` and `zh_Hans`.

    Raises:
        UsageError: no code of a language.
    """
    name = re.split("[-_]", code.strip().lower())[0]
    codes = _CODES.split()
    if name not in codes:
        raise UsageError(
            f"language {code!r} is no code of a language in ISO 639-1; use that of the language, or of one that is "
            f"written like it: {', '.join(codes)}"
        )
    return name


def has_spaces(language: str) -> bool:
    """Whether a language puts spaces between words."""
    return base_language(language) not in _UNSPACED_CODES


def is_latin(language: str) -> bool:
    """Whether a language is written in Latin script, as far as we know it."""
    return base_language(language) in _LATIN.split()


def split_tokens(text: str) -> list[str]:
    """Runs of letters and digits, single characters of scripts without spaces, and single punctuation marks."""
    return _TOKEN.findall(unicodedata.normalize("NFC", text))


def split_words(text: str) -> list[str]:
    """The same in lower case and without punctuation."""
    return [token for token in split_tokens(text.lower()) if token[0].isalnum() or token[0] == "_" or _is_letter(token)]


def _is_letter(token: str) -> bool:
    return unicodedata.category(token[0])[0] in "LMN"


def ngrams(tokens: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """All runs of `order` tokens, in their order."""
    return list(zip(*(tokens[n:] for n in range(order)), strict=False))


def count_ngrams(texts: Iterable[Sequence[str]], order: int) -> tuple[int, int]:
    """How many different runs of `order` tokens there are, and how many in all."""
    seen: set[tuple[str, ...]] = set()
    total = 0
    for tokens in texts:
        grams = ngrams(tokens, order)
        total += len(grams)
        seen.update(grams)
    return len(seen), total
