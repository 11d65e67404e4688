"""The lists of words, whose language it is, and how a word is found again."""

from __future__ import annotations

import socket

import pytest

from enchufe.access import words as module
from enchufe.access.words import LANGUAGES, Language, language, plain, spoken, whole, words


@pytest.mark.parametrize("of", LANGUAGES)
def test_a_list_can_be_typed_on_any_keyboard_and_its_words_are_told_by_four_letters(of: Language) -> None:
    known = words(of)
    assert len(known) == 2048 == len(set(known)) == len({word[:4] for word in known})
    assert all(word.isascii() and word.isalpha() and word.islower() for word in known)


def test_the_lists_are_those_of_bip_39() -> None:
    assert (words("english")[0], words("english")[2047]) == ("abandon", "zoo")
    assert (words("spanish")[0], words("spanish")[2047]) == ("abaco", "zurdo")


def test_the_lists_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_arguments: object, **_more: object) -> None:
        raise AssertionError("a socket was asked for")

    monkeypatch.setattr(socket, "socket", none)
    module.words.cache_clear()
    assert len(words("spanish")) == 2048


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "english"),
        ({"LANG": "C"}, "english"),
        ({"LANG": "es_ES.UTF-8"}, "spanish"),
        ({"LANG": "es"}, "spanish"),
        ({"LANG": "es.UTF-8"}, "spanish"),
        ({"LANG": "es@euro"}, "spanish"),
        ({"LANG": "ES_mx"}, "spanish"),
        ({"LANG": "es-AR"}, "spanish"),
        ({"LANG": "est_EE.UTF-8"}, "english"),
        ({"LANG": "et_ES"}, "english"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "es_ES"}, "spanish"),
        ({"LANG": "es_ES", "LC_MESSAGES": "en_GB"}, "english"),
        ({"LC_MESSAGES": "en_GB", "LC_ALL": "es_CL"}, "spanish"),
        ({"LC_MESSAGES": "es_ES", "LC_ALL": "C.UTF-8"}, "english"),
        ({"LC_ALL": "", "LANG": "es_ES"}, "spanish"),
        ({"LC_CTYPE": "es_ES"}, "english"),
    ],
)
def test_the_language_is_that_of_the_locale(environment: dict[str, str], expected: str) -> None:
    assert language(environment) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ÁBACO", "abaco"),
        ("niñez", "ninez"),
        ("nin\u0303ez", "ninez"),
        ("\uff21bandon", "abandon"),
        ("pingüino", "pinguino"),
    ],
)
def test_plain(text: str, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("begun", "of", "expected"),
    [
        ("abandon", "english", "abandon"),
        ("aban", "english", "abandon"),
        ("aband", "english", "abandon"),
        ("aba", "english", None),
        ("abandons", "english", None),
        ("abanx", "english", None),
        ("zoo", "english", "zoo"),
        ("zo", "english", None),
        ("zooo", "english", None),
        ("", "english", None),
        ("abaco", "spanish", "abaco"),
        ("abac", "spanish", "abaco"),
        ("abandon", "spanish", None),
    ],
)
def test_a_word_is_known_by_its_first_four_letters(begun: str, of: Language, expected: str | None) -> None:
    assert whole(begun, of) == expected


def test_a_fingerprint_is_spoken_alike_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    # SHA-256 of nothing begins with e3b0c442, so 11100011101 10000110001 000100001.. = 1821, 1073, ...
    first, second, *rest = spoken(b"", 23).split()
    assert (first, second) == (words("english")[0b11100011101], words("english")[0b10000110001])
    assert len(rest) == 21
    monkeypatch.setenv("LC_ALL", "es_ES.UTF-8")
    assert spoken(b"", 23).split() == [first, second, *rest]
    assert spoken(b"", 4).split() == [first, second, *rest[:2]]
    assert spoken(b"x", 4) != spoken(b"", 4)
