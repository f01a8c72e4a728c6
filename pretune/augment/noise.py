"""Character noise: simulates typing errors. Characters are replaced by look-alikes or sound-alikes from the user's
lists, as in Chinese spelling errors; without a list, letters are doubled, dropped or swapped with the next one.

Source: Zhang et al. 2020, "Spelling error correction with soft-masked BERT" (arXiv 2005.07421), section 4.1, for
homophones and similar shapes; Belinkov and Bisk 2018 (arXiv 1711.02173), section 3, for letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pretune.augment.augmenter import Augmenter, Edit, Span, Tools, read_groups
from pretune.draw import Draw


class Noise(Augmenter):
    """Misspells words, one character in each."""

    name: ClassVar[str] = "noise"

    class Config(Augmenter.Config):
        """Which characters are confused.

        Attributes:
            lists: files of characters that sound or look alike, one group per line, separated by tabs or commas.
        """

        lists: tuple[str, ...] = ()

    config: Config

    def __init__(self, config: Config, tools: Tools | None = None) -> None:
        super().__init__(config, tools)
        self._alike: dict[str, list[str]] = {}
        for path in config.lists:
            for char, others in read_groups(path, "characters").items():
                known = self._alike.setdefault(char, [])
                known += [other for other in others if other not in known]

    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """Edits one character in each chosen word that can be misspelt."""
        possible = [(word, positions) for word in words if (positions := self._positions(text, word))]
        out = []
        for n in self.choose(len(possible), draw.at("word")):
            (_, stop), positions = possible[n]
            index = positions[int(draw.at("place").below(n, len(positions)))]
            alike = self._alike.get(text[index])
            if alike:
                other = alike[int(draw.at("other").below(n, len(alike)))]
                out.append(Edit(index, index + 1, other))
                continue
            error = int(draw.at("kind").below(n, 3 if index + 1 < stop else 2))
            char = text[index]
            if error == 2:
                out.append(Edit(index, index + 2, text[index + 1] + char))
            else:
                out.append(Edit(index, index + 1, char * 2 if error == 0 else ""))
        return out

    def _positions(self, text: str, word: Span) -> list[int]:
        """Returns the characters of a word to misspell: those of the lists, else letters of words of four and more."""
        start, stop = word
        listed = [n for n in range(start, stop) if text[n] in self._alike]
        if listed or self._alike:
            return listed
        return [n for n in range(start + 1, stop) if text[n].isascii()] if stop - start > 3 else []
