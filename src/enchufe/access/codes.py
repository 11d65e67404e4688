"""Codes that one person says to another: `label-word-word-word`, and how long one of them lives."""

from __future__ import annotations

import re
import secrets
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import field
from typing import Final, Self

from enchufe.access.words import LANGUAGES, Language, language, plain, whole, words
from enchufe.dataclass import dataclass
from enchufe.errors import LocalProtocolError

LABELS: Final = 99
WORDS: Final = 3  # of 11 bits each
GUESSES: Final = 3
LIFE: Final = 600.0  # seconds

# What people and programs put around what they quote: spaces, quotation marks, brackets, the end of a sentence, stars
# for bold, and marks that nobody sees. None of it can begin a code or link, or end one.
_AROUND: Final = (
    " \t\r\n\xa0\"'`\u2018\u2019\u201a\u201c\u201d\u201e\u2039\u203a\xab\xbb<>()[]{}*.,;!?"
    "\u2026\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u2060\u2066\u2067\u2068\u2069\ufeff"
)
_LABEL: Final = re.compile("0*([1-9][0-9]?)", re.ASCII)
_BETWEEN: Final = "\u2212,"  # a minus is no dash to Unicode, and one to whoever copies it; who dictates gets commas


@dataclass(frozen=True, slots=True)
class Code:
    """What the one says and the other types. `str()` shows all of it, `repr()` the label only.

    Attributes:
        label: from 1 to 99; public, for finding the listener.
        words: the secret, as the lists have them.
    """

    label: int
    words: tuple[str, ...] = field(repr=False)

    @classmethod
    def new(cls, of: Language | None = None) -> Self:
        """One that nobody can know, in the language of the locale or another."""
        known = words(of or language())
        return cls(1 + secrets.randbelow(LABELS), tuple(secrets.choice(known) for _ in range(WORDS)))

    @classmethod
    def parse(cls, text: str, of: Language | None = None) -> Self:
        """Read what somebody typed: in capitals, without accents, with spaces, or four letters of each word.

        Where they may be of either language, it is the one in which all are whole words, then `of`.

        Args:
            text: what was typed.
            of: the language to prefer; by default that of the locale.

        Raises:
            LocalProtocolError: it is no code. What was typed is in no error: nearly right is a secret too.
        """
        label, *typed = _parts(text) or [""]
        number = _LABEL.fullmatch(label)
        if number is None or len(typed) != WORDS:
            raise LocalProtocolError(
                "that is no code", hint="A code is a number from 1 to 99 and three words: 7-word-word-word."
            )
        of = of or language()
        readings = []
        for candidate in sorted(LANGUAGES, key=lambda candidate: candidate != of):
            reading = tuple(filter(None, (whole(word, candidate) for word in typed)))
            if len(reading) == WORDS:
                readings.append(reading)
        if not readings:
            raise _unknown_word(typed)
        return cls(int(number[1]), min(readings, key=lambda reading: reading != tuple(typed)))

    def __str__(self) -> str:
        return "-".join((str(self.label), *self.words))

    @property
    def password(self) -> bytes:
        """What enters SPAKE2, and nothing else."""
        return str(self).encode()


def unwrapped(text: str) -> str:
    """A code or link without what stands around it, where it was copied out of a message."""
    return text.strip(_AROUND)


def spaced(text: str) -> str:
    """A code as it was typed, unwrapped: spaces for whatever stands between words, and nothing for what nobody sees.

    Soft hyphens and marks of direction are such, which programs put into a text.
    """
    return "".join(map(_spaced, unwrapped(text)))


def _spaced(character: str) -> str:
    kind = unicodedata.category(character)
    return " " if kind == "Pd" or character in _BETWEEN else "" if kind == "Cf" else character


def _parts(text: str) -> list[str]:
    return plain(spaced(text)).split()


def _unknown_word(typed: list[str]) -> LocalProtocolError:
    for place, word in enumerate(typed):
        if not any(whole(word, candidate) for candidate in LANGUAGES):
            which = ("first", "second", "third")[place]
            return LocalProtocolError(
                f"the {which} word of that code is in no list", hint="Read it again: is a letter missing or wrong?"
            )
    return LocalProtocolError(
        "the words of that code are of two languages", hint="Read it again: all three are Spanish, or all English."
    )


class LiveCode:
    """A code that lets somebody in, until three guesses, one success or ten minutes end it. For any thread.

    Args:
        code: what it is.
        now: a clock, in seconds; monotonic.
    """

    def __init__(self, code: Code, now: Callable[[], float]) -> None:
        self.code = code
        self._now = now
        self._end = now() + LIFE
        self._guesses = GUESSES
        self._burnt = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<LiveCode {self.code.label}, {'alive' if self.alive else 'gone'}>"

    @property
    def alive(self) -> bool:
        """Whether a guess may still be made."""
        with self._lock:
            return self._guesses > 0 and self._lasts()

    @property
    def burnt(self) -> bool:
        """Whether it has let somebody in."""
        with self._lock:
            return self._burnt

    @property
    def guesses(self) -> int:
        """How many may still be made, if it lives so long."""
        with self._lock:
            return 0 if self._burnt else self._guesses

    def guess(self) -> bool:
        """Debit a guess, before anything is answered to it; False: there is none, or the code is gone."""
        with self._lock:
            if not self._guesses or not self._lasts():
                return False
            self._guesses -= 1
            return True

    def burn(self) -> bool:
        """A guess that was debited is right: whether it is the one that gets in."""
        with self._lock:
            if not self._lasts():
                return False
            self._burnt = True
            return True

    def _lasts(self) -> bool:
        return not self._burnt and self._now() < self._end
