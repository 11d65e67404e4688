"""Exclude: what is not to be sent of the folders that are, by patterns in the manner of .gitignore."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from enchufe.errors import LocalProtocolError
from enchufe.printable import printable

# What a pattern is made of. A class may begin with the `]` that else would end it; one without an end is a character.
_PART: Final = re.compile(
    r"(?P<inside>/\*\*\Z)|(?P<below>/(?:\*\*/)+)|(?P<slash>/)|(?P<all>\*\*)|(?P<some>\*)|(?P<one>\?)"
    r"|\[(?P<none>[!^]?)(?P<set>\]?[^]]+|\])\]|\\(?P<quoted>.)|(?P<plain>.)",
    re.DOTALL,
)
# After a slash there is a name, or else `a/*` would go for the folder `a/`.
_TRANSLATED: Final = {
    "inside": "/.+",
    "below": "/(?:.*/)?(?=[^/])",
    "slash": "/(?=[^/])",
    "all": ".*",
    "some": "[^/]*",
    "one": "[^/]",
}


class Exclude:
    r"""Patterns that say what stays at home. They are the user's own: nothing here bounds the work of a hostile one.

    - Without a slash, as `*.o` or `.git`, it goes for what has that name at any depth, and for what was named.
    - With a slash at its start or inside, as `/build` or `docs/*.html`, for that path in each folder that was named.
    - With a slash at its end, as `cache/`, for folders only.
    - `*` is any characters and `?` one, but no slash; `[a-z]` is one of those, `[!a-z]` one that is not. `**` is
      anything, slashes too: `**/x/y` is that path at any depth, `x/**` all that is in x. `\` makes the next character
      a plain one.

    What is in a folder that stays stays too. Nothing takes an exclusion back: a `!` at the start is an error.

    Args:
        patterns: in any order; none excludes nothing.

    Raises:
        LocalProtocolError: one of them is no pattern.
    """

    def __init__(self, patterns: Sequence[str | bytes]) -> None:
        self._found = re.compile("|".join(map(_translated, patterns)) or r"(?!)", re.DOTALL).fullmatch

    def excludes(self, path: str, *, folder: bool) -> bool:
        """Whether it stays.

        Args:
            path: the name of what was named; else a slash and the path in the folder that was named.
            folder: whether it is one.
        """
        return self._found(f"{path}/" if folder else path) is not None


def _translated(pattern: str | bytes) -> str:
    """The regular expression for a pattern: of the path, with a slash at its end where it is a folder's."""
    given = os.fsdecode(pattern)
    body = given.rstrip("/")
    if not body or body.startswith("!"):
        raise LocalProtocolError(
            f"'{printable(given)}' is no pattern to exclude by",
            hint=r"Write `\!` where a name begins so; nothing takes an exclusion back." if body else None,
        )
    end = "/?" if body == given else "/"
    if "/" in body:
        return _PART.sub(_part, f"/{body.lstrip('/')}") + end
    return f"(?:.*/)?{_PART.sub(_part, body)}{end}"


def _part(found: re.Match[str]) -> str:
    what = found.lastgroup or ""
    if what == "set":
        try:
            return _class(found["none"], found["set"])
        except re.error as error:
            raise LocalProtocolError(f"'{printable(found[0])}' is no class of characters") from error
    return _TRANSLATED.get(what) or re.escape(found[what])


def _class(none: str, members: str) -> str:
    ranges = re.sub("(.)-(.)|(.)", _escaped, members, flags=re.DOTALL)
    translated = f"(?!/)[{'^' if none else ''}{ranges}]"
    re.compile(translated)
    return translated


def _escaped(found: re.Match[str]) -> str:
    return "-".join(re.escape(end) for end in found.groups() if end is not None)
