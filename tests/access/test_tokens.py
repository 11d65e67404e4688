"""Tokens: scope, quota and expiry hold for all processes, and what is kept lets nobody in."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enchufe.access.state import Folder, packed, unpacked
from enchufe.access.tokens import FILE, Grant, Token, Tokens, UsedUp
from enchufe.errors import LocalProtocolError, Refused, StoreError
from tests.access.conftest import Clock

# Transfers.
ONE = bytes(15) + b"1"
OTHER = bytes(15) + b"2"


@pytest.fixture
def tokens(folder: Folder, clock: Clock) -> Tokens:
    return Tokens(folder, clock)


def test_a_token_is_good_for_what_it_says(tokens: Tokens, folder: Folder, clock: Clock) -> None:
    token, record = tokens.new("ana", ["drop", "list"], 100, 2000.0)
    assert (record.name, record.public, record.made, record.expires) == ("ana", token.public, 1000, 2000)
    assert tokens.check(token.public) == Grant("ana", frozenset({"drop", "list"}), 100)
    assert Tokens(folder, clock).all() == [record]
    assert os.stat(f"{folder.path}/{FILE}").st_mode & 0o777 == 0o600


def test_a_token_that_says_nothing_else_has_no_end(tokens: Tokens, clock: Clock) -> None:
    token, record = tokens.new()
    clock.now = 1e12
    assert tokens.check(token.public) == Grant("token-1", frozenset({"drop"}), None)
    assert tokens.take(token.public, ONE, 1 << 60, 1 << 60) == 1 << 60
    assert tokens.all()[0].used == 1 << 60
    assert (record.quota, record.expires) == (None, None)


def test_the_link_s_text_is_the_token(tokens: Tokens) -> None:
    token, _ = tokens.new()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token.text)
    again = Token.parse(token.text)
    assert again.public == token.public and again.seed == token.seed and len(token.seed) == 32
    Ed25519PublicKey.from_public_bytes(token.public).verify(again.sign(b"it is me"), b"it is me")


@pytest.mark.parametrize("text", ["", "a" * 42, "a" * 44, "a" * 42 + "=", "a" * 42 + "+", "a" * 42 + "\n", "ñ" * 43])
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="no token") as caught:
        Token.parse(text)
    assert not text or text not in str(caught.value)


def test_an_unknown_or_revoked_token_is_good_for_nothing(tokens: Tokens) -> None:
    token, _ = tokens.new("ana")
    assert tokens.check(Token.new().public) is None
    assert tokens.revoke("ana").public == token.public
    assert tokens.check(token.public) is None
    with pytest.raises(UsedUp, match="not good any more"):
        tokens.take(token.public, ONE, 0, 0)
    assert tokens.all() == []
    with pytest.raises(LocalProtocolError, match="no token called"):
        tokens.revoke("ana")


def test_it_expires_by_the_clock_on_the_wall(tokens: Tokens, clock: Clock) -> None:
    token, _ = tokens.new("ana", expires=1500.0)
    clock.now = 1499.0
    assert tokens.check(token.public) is not None
    clock.now = 1500.0
    assert tokens.check(token.public) is None
    assert tokens.all()[0].state(clock.now) == "expired"
    with pytest.raises(UsedUp):
        tokens.take(token.public, ONE, 1, 1)
    clock.now = 1400.0  # whoever sets the clock back has it back
    assert tokens.check(token.public) is not None


def test_what_was_taken_and_not_needed_is_given_back(tokens: Tokens) -> None:
    token, _ = tokens.new("ana", quota=100)
    assert tokens.take(token.public, ONE, 10, 60) == 60
    tokens.settle(token.public, ONE, 25, finished=True)
    assert tokens.all()[0].used == 35
    with pytest.raises(ValueError, match="cannot be given back"):
        tokens.settle(token.public, ONE, -1, finished=True)
    tokens.revoke("ana")
    tokens.settle(token.public, ONE, 1, finished=True)
    assert tokens.all() == []


def test_a_quota_is_taken_and_never_more(tokens: Tokens, clock: Clock) -> None:
    token, _ = tokens.new("ana", quota=100)
    assert tokens.take(token.public, ONE, 60, 60) == 60
    assert tokens.all()[0].state(clock.now) == "good"
    with pytest.raises(UsedUp, match="40 bytes more, not for 41") as caught:
        tokens.take(token.public, ONE, 41, 41)
    assert isinstance(caught.value, Refused)
    assert tokens.check(token.public) == Grant("ana", frozenset({"drop"}), 40)
    assert tokens.take(token.public, ONE, 1, 1000) == 40
    assert tokens.all()[0].state(clock.now) == "used up"
    for least, most in ((-1, 0), (2, 1)):
        with pytest.raises(ValueError, match="cannot be taken"):
            tokens.take(token.public, ONE, least, most)


def test_whoever_used_it_up_may_come_back_until_that_is_finished(tokens: Tokens, folder: Folder, clock: Clock) -> None:
    token, _ = tokens.new("ana", quota=100, expires=2000.0)
    tokens.take(token.public, ONE, 100, 100)
    tokens.settle(token.public, ONE, 0, finished=False)
    assert Tokens(folder, clock).check(token.public) == Grant("ana", frozenset({"drop"}), 0)
    with pytest.raises(UsedUp, match="0 bytes more"):
        tokens.take(token.public, ONE, 1, 1)
    clock.now = 2000.0
    assert tokens.check(token.public) is None
    clock.now = 1000.0
    tokens.settle(token.public, ONE, 0, finished=True)
    assert tokens.check(token.public) is None


def test_only_the_transfer_that_was_cut_may_come_back_and_ends_that(tokens: Tokens) -> None:
    token, _ = tokens.new("ana", quota=100)
    assert tokens.take(token.public, OTHER, 10, 10) == 10
    assert tokens.take(token.public, ONE, 90, 90) == 90
    tokens.settle(token.public, ONE, 0, finished=False)
    tokens.settle(token.public, OTHER, 0, finished=True)
    assert tokens.check(token.public) == Grant("ana", frozenset({"drop"}), 0)  # who has not said what he comes for
    assert tokens.check(token.public, ONE) == Grant("ana", frozenset({"drop"}), 0)
    assert tokens.check(token.public, OTHER) is None
    tokens.settle(token.public, ONE, 0, finished=True)
    assert tokens.check(token.public, ONE) is None


def test_transfers_that_never_end_fill_no_disk(tokens: Tokens) -> None:
    token, _ = tokens.new("ana")
    for number in range(100):
        tokens.take(token.public, number.to_bytes(16), 1, 1)
    unfinished = tokens.all()[0].unfinished
    assert len(unfinished) < 100
    assert unfinished[-1] == (99).to_bytes(16)


@pytest.mark.parametrize("told", [None, False, True], ids=["silent", "none", "some"])
def test_tokens_that_an_older_version_kept_are_read(tokens: Tokens, folder: Folder, told: bool | None) -> None:
    token, record = tokens.new("ana", quota=100)
    whole = folder.read(FILE)
    assert whole is not None
    content = unpacked(whole, FILE)
    del content["ana"]["unfinished"]
    if told is not None:
        content["ana"]["unfinished"] = told
    with folder.locked() as opened:
        opened.write(FILE, packed(content))
    assert tokens.all() == [record]
    assert tokens.take(token.public, ONE, 100, 100) == 100


SPENDING = """
import sys
from enchufe.access.state import Folder
from enchufe.access.tokens import Tokens, UsedUp
tokens, spent = Tokens(Folder(sys.argv[1])), 0
for _ in range(40):
    try:
        tokens.take(bytes.fromhex(sys.argv[2]), bytes(16), 7, 7)
        spent += 7
    except UsedUp:
        pass
print(spent)
"""


def test_processes_that_spend_at_once_spend_no_more_than_there_is(tokens: Tokens, folder: Folder) -> None:
    token, _ = tokens.new("ana", quota=500)  # 71 times 7, and 3
    many = [
        subprocess.Popen(
            [sys.executable, "-c", SPENDING, folder.path, token.public.hex()], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    spent = [int(each.communicate(timeout=120)[0]) for each in many]
    assert sum(spent) == 497
    assert tokens.all()[0].used == 497


def test_what_is_kept_lets_nobody_in(tokens: Tokens, folder: Folder) -> None:
    token, record = tokens.new("ana", ["drop", "read", "list"], 1 << 40, 5000.0)
    everything = b"".join(Path(folder.path, name).read_bytes() for name in os.listdir(folder.path))
    assert token.seed not in everything and token.seed.hex().encode() not in everything
    assert token.text.encode() not in everything
    tried = 0
    for word in re.findall(rb"[A-Za-z0-9+/_-]{32,}", everything):
        found = [word[at : at + 32] for at in range(len(word) - 31)]
        if re.fullmatch(rb"[0-9a-f]+", word):
            raw = bytes.fromhex(word.decode())
            found += [raw[at : at + 32] for at in range(len(raw) - 31)]
        for altchars in (b"+/", b"-_"):
            raw = base64.b64decode(word + b"=" * (-len(word) % 4), altchars=altchars)
            found += [raw[at : at + 32] for at in range(len(raw) - 31)]
        for seed in found:
            tried += 1
            assert tokens.check(Token(seed).public) is None
    assert tried > 2
    assert tokens.check(token.public) is not None
    assert record.public.hex().encode() in everything  # so the search was in the right place


def test_the_secret_shows_nowhere(tokens: Tokens) -> None:
    token, record = tokens.new()
    for shown in (repr(token), str(token), repr(record), repr(tokens.check(token.public))):
        assert token.text not in shown and token.seed.hex() not in shown and repr(token.seed) not in shown


def test_names_are_made_or_chosen_and_taken_once(tokens: Tokens) -> None:
    assert [tokens.new()[1].name for _ in range(3)] == ["token-1", "token-2", "token-3"]
    tokens.revoke("token-2")
    assert tokens.new()[1].name == "token-2"
    with pytest.raises(LocalProtocolError, match="already"):
        tokens.new("token-1")
    with pytest.raises(LocalProtocolError, match="cannot be a name"):
        tokens.new("a b")
    assert len(tokens.all()) == 3


@pytest.mark.parametrize(
    ("scope", "told"), [([], ""), (["drop", "write"], "write"), ([""], ""), (["\x1b[2J"], r"\x1b[2J"), ("drop", "d")]
)
def test_a_scope_is_one_that_there_is(tokens: Tokens, scope: list[str], told: str) -> None:
    with pytest.raises(LocalProtocolError, match=f"^'{re.escape(told)}' is nothing a token is for") as caught:
        tokens.new("ana", scope)
    assert str(caught.value).isprintable()
    assert tokens.all() == []


@pytest.mark.parametrize(("quota", "expires"), [(0, None), (-1, None), (None, 1000.0), (None, 0.0)])
def test_a_token_for_nothing_is_none(tokens: Tokens, quota: int | None, expires: float | None) -> None:
    with pytest.raises(LocalProtocolError):
        tokens.new("ana", quota=quota, expires=expires)
    assert tokens.all() == []


def test_a_token_may_be_for_a_single_byte(tokens: Tokens) -> None:
    token, _ = tokens.new("ana", quota=1)
    assert tokens.check(token.public) == Grant("ana", frozenset({"drop"}), 1)


def test_a_damaged_file_lets_nobody_in_and_is_never_begun_anew(tokens: Tokens, folder: Folder) -> None:
    token, _ = tokens.new("ana", quota=100)
    whole = folder.read(FILE)
    assert whole is not None
    for content in (b"", whole[:-20], whole.replace(b'"quota": 100', b'"quota": 900')):
        with folder.locked() as opened:
            opened.write(FILE, content)
        for use in (lambda: tokens.check(token.public), lambda: tokens.take(token.public, ONE, 1, 1), tokens.new):
            with pytest.raises(StoreError, match="damaged"):
                use()
        assert folder.read(FILE) == content


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quota", "much"),
        ("used", None),
        ("expires", "never"),
        ("expires", 10**30),
        ("expires", -(10**30)),
        ("expires", float("inf")),
        ("made", []),
        ("unfinished", 7),
        ("unfinished", [7]),
        ("unfinished", ["77"]),
        ("public", "77" * 31),
        ("scope", ["drop", "write"]),
    ],
)
def test_what_makes_no_sense_is_damage(tokens: Tokens, folder: Folder, key: str, value: object) -> None:
    tokens.new("ana")
    with folder.locked() as opened:
        content = unpacked((opened.read(FILE) or b""), FILE)
        content["ana"][key] = value
        opened.write(FILE, packed(content))
    with pytest.raises(StoreError, match="damaged"):
        tokens.all()
