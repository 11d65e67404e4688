"""Patterns to exclude by: what each goes for, and what not."""

from __future__ import annotations

import os

import pytest

from enchufe.errors import LocalProtocolError
from enchufe.store.exclude import Exclude

# Pattern, what it excludes, what it does not. A path with a slash at its end is a folder's; without one at its start,
# what was named.
TABLE: list[tuple[str | bytes, str, str]] = [
    ("x", "x x/ /x /x/ /a/x /a/b/x/", "/xx /x.c /a/xy /X yx /a/yx"),
    ("*.o", "a.o /a.o /.o /d/a.o /d.o/ a.o/", "/a.oo /o /a.o.c /d/ao"),
    ("*", "x x/ /x /a/b/ /.git", ""),
    ("a*b", "/ab /axb /a*b /d/axxb", "/a /b /axbc /a/b"),
    (".*", "/.git/ /a/.x .x", "/x /a.b"),
    ("a?c", "/abc /a?c /añc /a\N{SOCKS}c", "/ac /abbc /a/c"),
    ("[ab]x", "/ax /bx", "/cx /abx /x"),
    ("[a-c-]x", "/ax /bx /cx /-x", "/dx /[x"),
    ("[!a-c]x", "/dx /ñx", "/ax /x /d/x"),
    ("[^a]x", "/dx", "/ax"),
    ("[]a]x", "/]x /ax", "/bx"),
    ("[]]", "/]", "/["),
    ("[!]]", "/[", "/]"),
    ("[a^&~|.*?]", "/a /^ /& /~ /| /. /* /?", "/b /aa"),
    ("[+--]b", "/+b /,b /-b", "/.b"),
    ("[ñ-ú]", "/ñ /ö", "/a /z"),
    ("a[b", "/a[b", "/ab"),
    ("[]", "/[]", "/[ /]"),
    ("a.b", "/a.b", "/axb"),
    ("(a|b)+$", "/(a|b)+$", "/a /ab"),
    (r"\*", "/*", "/x"),
    (r"\!x", "/!x", "/x"),
    (r"a\\b", r"/a\b", r"/a\\b /ab"),
    ("a\\", "/a\\", "/a"),
    ("#x", "/#x", "/x"),
    ("x/", "x/ /x/ /a/x/", "x /x /a/x"),
    ("x//", "/x/", "/x"),
    ("*/", "/x/ /a/b/", "/x /a/b"),
    ("/x", "/x /x/", "x x/ /a/x /xx"),
    ("/x/", "/x/", "x/ /x /a/x/"),
    ("//x", "/x", "/a/x"),
    ("a/b", "/a/b /a/b/", "a/b /a /b /c/a/b /a/b/c"),
    ("a/b/", "/a/b/", "/a/b /c/a/b/"),
    ("/*", "/x /x/", "x x/ /a/x"),
    ("a/*", "/a/x /a/x/", "/a/ /a /a/x/y /b/x"),
    ("a/*.o", "/a/x.o", "/a/b/x.o /x.o"),
    ("*/x", "/a/x /b/x/", "/x /a/b/x"),
    ("a/*/x", "/a/b/x", "/a/x /a/b/c/x"),
    ("**/x", "/x /a/x /a/b/x/", "x /xx /a/yx"),
    ("**/a/x", "/a/x /b/a/x /c/b/a/x", "/x /ba/x /a/b/x"),
    ("/**/x", "/x /a/x", "x"),
    ("**/**/x", "/x /a/x /a/b/x", "/ax"),
    ("a/**/x", "/a/x /a/b/x /a/b/c/x", "/x /ax /a/bx /b/a/x"),
    ("a/**/**/x", "/a/x /a/b/x", "/ax"),
    ("a/**", "/a/x /a/b/ /a/b/c", "/a /a/ /ab /b/a/x"),
    ("a/**/*", "/a/x /a/b/ /a/b/c", "/a /a/ /ab /b/a/x"),
    ("a/**x", "/a/x /a/b/cx", "/a/ /ax /a/xb"),
    ("a/**/", "/a/b/ /a/b/c/", "/a/ /a/x"),
    ("**", "x x/ /x /a/b", ""),
    ("/a**b", "/ab /axb /a/x/b", "/a /b/ab"),
    ("ñandú/*", "/ñandú/x", "/nandu/x"),
    ("line\n*", "/line\nbreak", "/line"),
    ("x*", "/x\n/", "/y"),
    (b"\xff*", os.fsdecode(b"/\xff\xfe"), os.fsdecode(b"/\xfe")),
    ("a?b", os.fsdecode(b"/a\xffb"), os.fsdecode(b"/a\xff\xffb")),
]


@pytest.mark.parametrize(("pattern", "excluded", "kept"), TABLE)
def test_table(pattern: str | bytes, excluded: str, kept: str) -> None:
    for paths, expected in ((excluded, True), (kept, False)):
        for path in paths.split(" ") if paths else ():
            found = Exclude([pattern]).excludes(path.removesuffix("/"), folder=path.endswith("/"))
            assert found is expected, path


def test_several_patterns() -> None:
    exclude = Exclude(["*.o", "/build/", b"a b"])
    for path, folder, expected in [
        *(("/x.o", False, True), ("/build", True, True), ("/build", False, False), ("/d/a b", False, True)),
        *(("/a", False, False), ("/x.obuild", True, False)),
    ]:
        assert exclude.excludes(path, folder=folder) is expected, path
    assert not Exclude([]).excludes("/x", folder=False)
    assert not Exclude([]).excludes("", folder=True)


@pytest.mark.parametrize("pattern", ["", "/", "//", "!x", "!", "[z-a]", "/x/[b-a]", "x\x1b[z-a]"])
def test_no_pattern(pattern: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Exclude(["x", pattern])
    assert str(caught.value).isprintable()
