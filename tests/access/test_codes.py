"""Codes: how they are made and read, and how one lives."""

from __future__ import annotations

import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from enchufe.access.codes import GUESSES, LIFE, Code, LiveCode
from enchufe.access.words import LANGUAGES, Language, whole, words
from enchufe.errors import LocalProtocolError
from enchufe.testing import ManualClock

SPANISH = Code(7, ("abaco", "ninez", "zurdo"))
ENGLISH = Code(42, ("abandon", "zoo", "ability"))

LISTS = st.sampled_from(get_args(Language))


@st.composite
def codes(draw: st.DrawFn, of: Language) -> Code:
    known = st.sampled_from(words(of))
    return Code(draw(st.integers(1, 99)), (draw(known), draw(known), draw(known)))


@pytest.mark.parametrize("of", LANGUAGES)
def test_a_new_code_has_a_label_and_three_words_of_its_language(of: Language) -> None:
    made = [Code.new(of) for _ in range(2000)]
    assert {code.label for code in made} == set(range(1, 100))
    assert all(len(code.words) == 3 and set(code.words) <= set(words(of)) for code in made)
    assert len(set(made)) == len(made), "two codes are alike"
    # Each word is drawn from all of the list: of 6,000 draws, some 1,940 are different.
    assert len({word for code in made for word in code.words}) > 1500


@pytest.mark.parametrize(("locale", "of"), [("es_ES.UTF-8", "spanish"), ("de_DE", "english")])
def test_a_new_code_is_in_the_language_of_the_locale(
    locale: str, of: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    assert all(set(Code.new().words) <= set(words(of)) for _ in range(50))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7-abaco-ninez-zurdo", SPANISH),
        ("7-ábaco-niñez-zurdo", SPANISH),
        ("7 ÁBACO Niñez  ZURDO", SPANISH),
        ("  07-abac-nine-zurd\n", SPANISH),
        ("7 - abaco - ninez - zurdo", SPANISH),
        ("7\u2013abaco\u2011ninez\u2014zurdo", SPANISH),
        ("7-a\u0301baco-nin\u0303ez-zurdo", SPANISH),
        ("\uff17-abaco-ninez-zurdo", SPANISH),
        ("\u201c7-abaco-ninez-zurdo.\u201d ", SPANISH),
        ("**7-abaco-ninez-zurdo**,", SPANISH),
        ("7, \u00e1baco, ni\u00f1ez, zurdo\u2026", SPANISH),
        ("42-abandon-zoo-ability", ENGLISH),
        ("42 aban ZOO abil", ENGLISH),
    ],
)
@pytest.mark.parametrize("of", LANGUAGES)
def test_what_is_typed_is_read_kindly(text: str, expected: Code, of: Language) -> None:
    assert Code.parse(text, of) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no code"),
        ("-", "no code"),
        ("7", "no code"),
        ("7-abaco-ninez", "no code"),
        ("abaco-ninez-zurdo", "no code"),
        ("7-abaco-ninez-zurdo-abaco", "no code"),
        ("0-abaco-ninez-zurdo", "no code"),
        ("100-abaco-ninez-zurdo", "no code"),
        ("-7-x-abaco-ninez-zurdo", "no code"),
        ("+7-abaco-ninez-zurdo", "no code"),
        ("1_0-abaco-ninez-zurdo", "no code"),
        ("9" * 5000 + "-abaco-ninez-zurdo", "no code"),
        ("\u0667-abaco-ninez-zurdo", "no code"),
        ("7-abc-ninez-zurdo", "first word"),
        ("7-abaco-ninx-zurdo", "second word"),
        ("7-abaco-ninez-zurdos", "third word"),
        ("7-abaco-zoo-zurdo", "two languages"),
    ],
)
def test_nonsense_is_refused_and_not_repeated(text: str, told: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Code.parse(text)
    assert told in str(caught.value)
    assert caught.value.hint
    assert not any(word in f"{caught.value} {caught.value.hint}" for word in ("abaco", "nin", "zurd"))


@given(st.data(), LISTS, LISTS)
def test_a_code_is_read_as_it_is_shown(data: st.DataObject, of: Language, here: Language) -> None:
    code = data.draw(codes(of))
    assert Code.parse(str(code), here) == code
    assert code.password == str(code).encode("ascii")


@given(st.data(), LISTS)
def test_four_letters_do_in_ones_own_language(data: st.DataObject, of: Language) -> None:
    code = data.draw(codes(of))
    typed = [word[: data.draw(st.integers(4, 8))] for word in code.words]
    other: Language = "english" if of == "spanish" else "spanish"
    assume(tuple(typed) == code.words or not all(whole(word, other) == word for word in typed))
    separator = data.draw(st.sampled_from([" ", "-", " - ", "\t", "\u2014"]))
    shouted = [word.upper() if data.draw(st.booleans()) else word for word in typed]
    assert Code.parse(separator.join([str(code.label), *shouted]), of) == code


def test_whole_words_win_over_the_locale_and_abbreviations_do_not() -> None:
    both = [word for word in words("english") if len(word) == 4 and whole(word, "spanish") not in (None, word)]
    typed = f"5-{both[0]}-{both[1]}-{both[2]}"
    assert Code.parse(typed, "spanish").words == tuple(both[:3])
    typed = f"5-{both[0]}-{both[1]}-salo"
    assert set(Code.parse(typed, "spanish").words) <= set(words("spanish"))
    assert set(Code.parse(typed, "english").words) <= set(words("english"))


@given(st.text(max_size=60) | st.text("7-aábcinorz ", max_size=30))
def test_any_text_is_a_code_or_a_local_error(text: str) -> None:
    try:
        code = Code.parse(text)
    except LocalProtocolError as error:
        assert error.hint
    else:
        assert Code.parse(str(code)) == code


def test_only_str_shows_the_words() -> None:
    live = LiveCode(SPANISH, ManualClock())
    for shown in (repr(SPANISH), repr(live), str(live), f"{live}", repr([SPANISH])):
        assert "7" in shown
        assert not any(word in shown for word in SPANISH.words)
    assert str(SPANISH) == "7-abaco-ninez-zurdo"


def test_the_canonical_form_has_nothing_to_normalise() -> None:
    for of in LANGUAGES:
        for word in words(of):
            assert unicodedata.is_normalized("NFKD", word)


# How one lives


def test_three_guesses_end_a_code() -> None:
    live = LiveCode(SPANISH, ManualClock())
    for left in (2, 1, 0):
        assert live.alive
        assert live.guess()
        assert live.guesses == left
    assert not live.alive
    assert not live.guess()
    assert live.burn(), "the third guess was right"
    assert live.guesses == 0


def test_one_success_burns_a_code() -> None:
    live = LiveCode(SPANISH, ManualClock())
    assert live.guess()
    assert live.guess()
    assert live.burn()
    assert not live.burn(), "two got in"
    assert not live.alive
    assert live.guesses == 0
    assert not live.guess()


def test_ten_minutes_end_a_code() -> None:
    clock = ManualClock()
    live = LiveCode(SPANISH, clock)
    assert LIFE == 600
    clock.advance(LIFE - 1)
    assert live.alive
    assert live.guess()
    clock.advance(LIFE)
    assert not live.alive
    assert not live.guess()
    assert not live.burn(), "the proof came too late"


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize(("act", "most"), [(LiveCode.guess, GUESSES), (LiveCode.burn, 1)])
def test_many_threads_get_no_more(act: Callable[[LiveCode], bool], most: int, hasty: None) -> None:
    for _ in range(100):
        live = LiveCode(SPANISH, ManualClock())
        start = threading.Barrier(8)
        got: list[bool] = []

        def attempt(live: LiveCode = live, start: threading.Barrier = start, got: list[bool] = got) -> None:
            start.wait()
            got.extend(act(live) for _ in range(3))

        threads = [threading.Thread(target=attempt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(got) == most
