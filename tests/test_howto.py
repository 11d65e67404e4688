"""The HOWTO's pages: every example is run as its reader would, and both languages show the same."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

FOLDER: Final = Path(__file__).parents[1] / "docs" / "howto"
PAGES: Final = ("README.md", "LEEME.md")


class Example(NamedTuple):
    """A program of a page, and what the page says that it prints."""

    page: str
    line: int
    code: str
    prints: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def examples(page: str) -> list[Example]:
    """Those of a page, in order."""
    text = (FOLDER / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```\n+^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Example(page, text.count("\n", 0, each.start()) + 2, each[1], each[2]) for each in found]


@pytest.mark.parametrize("example", [each for page in PAGES for each in examples(page)], ids=str)
def test_it_prints_what_stands_below_it(example: Example, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(example.code, encoding="utf-8")
    environment = {**os.environ, "PYTHONUTF8": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", program.name],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (example.prints, "", 0)


def test_a_type_checker_finds_nothing_in_them(tmp_path: Path) -> None:
    """In those of one page: the other has the same programs."""
    for example in examples(PAGES[0]):
        (tmp_path / f"line_{example.line}.py").write_text(example.code, encoding="utf-8")
    options = ["--config-file=", f"--cache-dir={tmp_path / 'cache'}", "--check-untyped-defs"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *sorted(tmp_path.glob("*.py"))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def shape(code: str) -> str:
    """A program without what is said in it: its text, its bytes and its comments."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
            node.value = type(node.value)()
    return ast.dump(tree)


def test_both_languages_have_the_same_sections_and_programs() -> None:
    english, spanish = (examples(page) for page in PAGES)
    assert [shape(each.code) for each in english] == [shape(each.code) for each in spanish]
    titles = [re.findall(r"^#+ ", (FOLDER / page).read_text(encoding="utf-8"), re.MULTILINE) for page in PAGES]
    assert titles[0] == titles[1]


@pytest.mark.parametrize("page", PAGES)
def test_every_program_says_what_it_prints(page: str) -> None:
    text = (FOLDER / page).read_text(encoding="utf-8")
    assert len(examples(page)) == text.count("```python\n") > 20
