"""Tokens: what a service gives out so that whoever has one may do this much, so long, and no more.

A token is a key. Its secret half is in the link and nowhere else; what is kept here is the public one, with which
nobody can log in.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from enchufe.access.identity import KeyPair
from enchufe.access.known import chosen_name
from enchufe.access.state import Book, Folder, moment
from enchufe.dataclass import dataclass
from enchufe.errors import LocalProtocolError, Refused
from enchufe.printable import printable

FILE: Final = "tokens.json"
SCOPES: Final = ("drop", "read", "list")
_KEY: Final = 32  # bytes
_SESSION: Final = 16  # bytes of what tells a transfer from others
_UNFINISHED: Final = 16  # transfers of one token that may come back with nothing left
_TEXT: Final = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes in base64url, RFC 4648 section 5, without padding


class Token(KeyPair):
    """The secret that its bearer shows; only its creator and the link ever have it."""

    @property
    def seed(self) -> bytes:
        """The secret itself, 32 bytes."""
        return self._seed

    @property
    def text(self) -> str:
        """The secret itself, as links carry it: base64url without padding."""
        return base64.urlsafe_b64encode(self._seed).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read what a link carries.

        Raises:
            LocalProtocolError: it is no token. The error does not repeat it.
        """
        try:
            if _TEXT.fullmatch(text):
                return cls(base64.b64decode(text + "=", altchars=b"-_", validate=True))
        except (binascii.Error, ValueError):
            pass
        raise LocalProtocolError("that is no token", hint="Copy the whole link, without spaces or line breaks.")


@dataclass(frozen=True, slots=True)
class Grant:
    """What the bearer of a token may do now.

    Attributes:
        name: of the token.
        scope: some of `drop`, `read` and `list`.
        left: bytes that may still cross; None: any number.
    """

    name: str
    scope: frozenset[str]
    left: int | None


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept about a token.

    Attributes:
        name: of it.
        public: the public half of its key, 32 bytes.
        scope: some of `drop`, `read` and `list`.
        quota: bytes that may cross in all; None: any number.
        used: bytes that have crossed, or were taken for what is about to.
        made: when, in seconds since 1970.
        expires: when it stops being good, in seconds since 1970; None: never.
        unfinished: the sessions of transfers that took some and have not come to their end, the last one last: they may
            come back with nothing left.
    """

    name: str
    public: bytes
    scope: frozenset[str]
    quota: int | None
    used: int
    made: int
    expires: int | None
    unfinished: tuple[bytes, ...] = ()

    @property
    def left(self) -> int | None:
        """Bytes that may still cross; None: any number."""
        return None if self.quota is None else self.quota - self.used

    def state(self, now: float) -> str:
        """`good`, `expired` or `used up` at that moment, in seconds since 1970."""
        if self.expires is not None and now >= self.expires:
            return "expired"
        return "used up" if self.left == 0 else "good"


class UsedUp(Refused):
    """A token is not good for that much, or for anything any more."""

    hint = "For more, give out another: `enchufe token new`."


class Tokens:
    """All tokens that were given out here, for every process of this user.

    Every call reads what is on disk by then, and may raise StoreError: it cannot be read or written, is not private, or
    is damaged.

    Args:
        folder: where they are kept; None: the state folder.
        now: the time, in seconds since 1970: expiry is a date that was told to people.
    """

    def __init__(self, folder: Folder | None = None, now: Callable[[], float] = time.time) -> None:
        self._book = Book(folder or Folder(), FILE, _parse, _pack)
        self._now = now

    def all(self) -> list[Record]:
        """Every one that was not revoked, in the order in which they were made."""
        return list(self._book.read().values())

    def new(
        self,
        name: str | None = None,
        scope: Iterable[str] = ("drop",),
        quota: int | None = None,
        expires: float | None = None,
    ) -> tuple[Token, Record]:
        """Make a token; the only time that it can be had.

        Args:
            name: by which to list and revoke it; None: `token-N`.
            scope: some of `drop`, `read` and `list`.
            quota: bytes that may cross in all; None: any number.
            expires: when it stops being good, in seconds since 1970; None: never.

        Raises:
            LocalProtocolError: that is no name, or taken; no such scope, or none; no quota; a time that is past.
        """
        granted = _scope(scope)
        if quota is not None and quota < 1:
            raise LocalProtocolError("a token for nothing is none", hint="Say how many bytes may cross, as 10GB.")
        if expires is not None and expires <= self._now():
            raise LocalProtocolError("such a token has expired already", hint="Say for how long it is good, as 30d.")
        if name is not None:
            name = chosen_name(name)
        token = Token.new()
        with self._book.changing() as records:
            if name is None:
                name = next(free for n in range(1, len(records) + 2) if (free := f"token-{n}") not in records)
            elif name in records:
                raise LocalProtocolError(
                    f"there is a token called {name} already", hint="Choose another name, or revoke that one first."
                )
            until = None if expires is None else int(expires)
            record = Record(name, token.public, granted, quota, 0, int(self._now()), until)
            records[name] = record
        return token, record

    def check(self, public: bytes, session: bytes | None = None) -> Grant | None:
        """What the bearer of this token may do; None where it is unknown, revoked, expired or used up.

        Args:
            session: which transfer he has come for; None: he has not said yet, and it may be one that was cut.
        """
        record = self._good(self._book.read(), public)
        if record is None:
            return None
        may_return = bool(record.unfinished) if session is None else session in record.unfinished
        if record.left == 0 and not may_return:
            return None
        return Grant(record.name, record.scope, record.left)

    def bearing(self, public: bytes) -> Record | None:
        """The token with this public key, whatever it is good for; None: there is none, or it was revoked."""
        return _bearing(self._book.read(), public)

    def take(self, public: bytes, session: bytes, least: int, most: int) -> int:
        """Take from what may cross before it does, whatever other processes do; how many bytes. To be settled.

        Args:
            session: which transfer it is for.
            least: bytes without which nothing is taken.
            most: bytes to take where there are so many.

        Raises:
            UsedUp: there is not so much left; or it is unknown, revoked or expired by now.
        """
        if not 0 <= least <= most:
            raise ValueError(f"{least} to {most} bytes cannot be taken")
        with self._book.changing() as records:
            record = self._good(records, public)
            if record is None:
                raise UsedUp("the token is not good any more")
            left = record.left
            if left is not None and left < least:
                raise UsedUp(f"the token is good for {left} bytes more, not for {least}")
            taken = most if left is None else min(most, left)
            unfinished = (*_without(record.unfinished, session), session)[-_UNFINISHED:]
            records[record.name] = replace(record, used=record.used + taken, unfinished=unfinished)
        return taken

    def settle(self, public: bytes, session: bytes, unused: int, *, finished: bool) -> None:
        """Give back what a transfer took and has not had cross; it was finished or cut."""
        if unused < 0:
            raise ValueError(f"{unused} bytes cannot be given back")
        with self._book.changing() as records:
            record = _bearing(records, public)
            if record is not None:  # else it was revoked meanwhile
                unfinished = _without(record.unfinished, session) if finished else record.unfinished
                records[record.name] = replace(record, used=max(record.used - unused, 0), unfinished=unfinished)

    def revoke(self, name: str) -> Record:
        """Have a token be good for nothing from now on, and forget it; what it was.

        Raises:
            LocalProtocolError: there is none of that name.
        """
        with self._book.changing() as records:
            if name not in records:
                raise LocalProtocolError(
                    f"there is no token called '{printable(name)}'", hint="`enchufe token list` lists them."
                )
            return records.pop(name)

    def _good(self, records: dict[str, Record], public: bytes) -> Record | None:
        record = _bearing(records, public)
        return record if record is not None and record.state(self._now()) != "expired" else None


def _bearing(records: dict[str, Record], public: bytes) -> Record | None:
    return next((record for record in records.values() if record.public == public), None)


def _without(sessions: tuple[bytes, ...], session: bytes) -> tuple[bytes, ...]:
    return tuple(each for each in sessions if each != session)


def _scope(scope: Iterable[str]) -> frozenset[str]:
    wanted = frozenset(scope)
    unknown = sorted(wanted - frozenset(SCOPES))
    if unknown or not wanted:
        wrong = printable(unknown[0]) if unknown else ""
        raise LocalProtocolError(
            f"'{wrong}' is nothing a token is for",
            hint="Choose drop (to send files here), read (to receive what is sent here), list (to look at that), or"
            " several: drop,read.",
        )
    return wanted


def _parse(name: str, record: dict[str, Any]) -> Record:
    public, scope = bytes.fromhex(record["public"]), frozenset(record["scope"])
    if len(public) != _KEY or not scope <= frozenset(SCOPES):
        raise ValueError("no token")
    told = record.get("unfinished")
    # Older versions did not say, or only whether there are any: whose, nobody knows.
    unfinished = () if told is None or isinstance(told, bool) else tuple(map(bytes.fromhex, told))
    if any(len(session) != _SESSION for session in unfinished):
        raise ValueError("no transfer")
    quota = None if record["quota"] is None else int(record["quota"])
    expires = None if record["expires"] is None else moment(record["expires"])
    return Record(name, public, scope, quota, int(record["used"]), moment(record["made"]), expires, unfinished)


def _pack(record: Record) -> dict[str, Any]:
    return {
        "public": record.public.hex(),
        "scope": [scope for scope in SCOPES if scope in record.scope],
        "quota": record.quota,
        "used": record.used,
        "made": record.made,
        "expires": record.expires,
        "unfinished": [session.hex() for session in record.unfinished],
    }
