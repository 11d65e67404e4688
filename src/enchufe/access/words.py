"""Words that people say to each other: the lists of BIP-39, 2,048 words each, eleven bits a word.

No two words of a list begin with the same four letters. A word is shown without accents, so that any keyboard has it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final, Literal

Language = Literal["spanish", "english"]
LANGUAGES: Final[tuple[Language, ...]] = ("spanish", "english")

_BITS: Final = 11  # of a word
_PREFIX: Final = 4  # letters that tell a word
# What decides about the language of messages, the first that is set: POSIX.1-2017, XBD 8.2.
_VARIABLES: Final = ("LC_ALL", "LC_MESSAGES", "LANG")


def language(environment: Mapping[str, str] = os.environ) -> Language:
    """The language of the list to take words from: Spanish where the locale is, else English."""
    locale = next(filter(None, map(environment.get, _VARIABLES)), "")
    spoken_there = locale.replace("-", "_").partition(".")[0].partition("@")[0].partition("_")[0]
    return "spanish" if spoken_there.lower() == "es" else "english"


@functools.cache
def words(language: Language) -> Sequence[str]:
    """The list of a language, in its order, as `plain` makes its words."""
    from mnemonic import Mnemonic  # noqa: PLC0415 (slow to import, and not everybody needs it)

    return tuple(map(plain, Mnemonic(language).wordlist))


@functools.cache
def _by_prefix(language: Language) -> Mapping[str, str]:
    return {word[:_PREFIX]: word for word in words(language)}


def plain(text: str) -> str:
    """Small letters without accents: NFKD, without what combines."""
    if text.isascii():  # nearly all of 4,096 words at each start
        return text.lower()
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in apart if not unicodedata.combining(character))


def whole(begun: str, language: Language) -> str | None:
    """The word of a list that `begun`, as `plain` makes it, means: itself or its first four letters or more."""
    word = _by_prefix(language).get(begun[:_PREFIX])
    return word if word is not None and word.startswith(begun) else None


def spoken(data: bytes, count: int) -> str:
    """`count` words, 23 at the most, that stand for `data`: for people who compare a fingerprint.

    They are English everywhere: the two who compare may have two locales. Eleven bits each, of the SHA-256.
    """
    bits = int.from_bytes(hashlib.sha256(data).digest(), "big")
    indices = [bits >> (256 - _BITS * (place + 1)) & (1 << _BITS) - 1 for place in range(count)]
    return " ".join(words("english")[index] for index in indices)
