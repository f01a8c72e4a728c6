"""Character noise: what a hasty writer makes of a text. Characters give way to look-alikes or sound-alikes of the
user's lists, which is what errors in Chinese are; without a list, letters are doubled, left out or exchanged with the
next one.

Source: Zhang et al. 2020, "Spelling error correction with soft-masked BERT" (arXiv 2005.07421), section 4.1, for
homophones and similar shapes; Belinkov and Bisk 2018 (arXiv 1711.02173), section 3, for letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pretune.augment.augmenter import Augmenter, Edit, Span, Tools, read_groups
from pretune.draw import Draw


class Noise(Augmenter):
    """Misspell words, a character each."""

    name: ClassVar[str] = "noise"

    class Config(Augmenter.Config):
        """What characters are taken for.

        Attributes:
            lists: files of characters that sound or look alike, a group a line, separated by tabs or commas.
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
        """One in each chosen word that can be misspelt."""
        possible = [(word, places) for word in words if (places := self._places(text, word))]
        out = []
        for n in self.pick(len(possible), draw.at("word")):
            (_, stop), places = possible[n]
            place = places[int(draw.at("place").below(n, len(places)))]
            found = self._alike.get(text[place])
            if found:
                other = found[int(draw.at("other").below(n, len(found)))]
                out.append(Edit(place, place + 1, other))
                continue
            kind = int(draw.at("kind").below(n, 3 if place + 1 < stop else 2))
            char = text[place]
            if kind == 2:
                out.append(Edit(place, place + 2, text[place + 1] + char))
            else:
                out.append(Edit(place, place + 1, char * 2 if kind == 0 else ""))
        return out

    def _places(self, text: str, word: Span) -> list[int]:
        """Characters of a word that can be wrong: those of the lists, else letters of words of four and more."""
        start, stop = word
        listed = [n for n in range(start, stop) if text[n] in self._alike]
        if listed or self._alike:
            return listed
        return [n for n in range(start + 1, stop) if text[n].isascii()] if stop - start > 3 else []
