"""The floors: a file imports only from above it in the house; F1 is pure meaning."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "enchufe"

# From the top down, as docs/architecture.md draws it; what stands on one line is one floor's sibling group.
ORDER = [
    ("F0", "errors"), ("F0", "checks"), ("F0", "printable"), ("F0", "dataclass"), ("F0", "entry"), ("F0", "ids"),
    ("F0", "events"), ("F0", "buffer"), ("F0", "lazy"), ("F0", "interruption"),
    ("F1", "framing"), ("F1", "transfer"),
    ("F2", "waiting"), ("F2", "transports"), ("F2", "store"),
    ("F3", "file"), ("F3", "connection"), ("F3", "heartbeat"), ("F3", "pace"), ("F3", "access"),
    ("F3", "link"), ("F3", "session"),
    ("F4", "server"),
    ("F5", "engines"), ("F5", "aio"), ("F5", "blocking"), ("F5", "acquaintance"), ("F5", "entrance"),
    ("F5", "meeting"), ("F5", "reaching"), ("F5", "files"), ("F5", "measure"), ("F5", "testing"),
    ("F6", "__init__"), ("F6", "web"), ("F6", "cli"), ("F6", "__main__"),
]  # fmt: skip
PLACES = {name: place for place, (_, name) in enumerate(ORDER)}
FLOORS = {name: floor for floor, name in ORDER}
IMPURE = {"asyncio", "os", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "time"}


def imported(code: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def faults(where: str, code: str) -> list[str]:
    """What `code`, in the part of the house called `where`, imports and must not."""
    found = []
    for name in sorted(imported(code)):
        top, _, rest = name.partition(".")
        part = rest.split(".")[0]
        if top == "enchufe" and part in PLACES and part != where:
            apart = {FLOORS[part], FLOORS[where]} == {"F1", "F2"}
            if PLACES[part] > PLACES[where] or apart:
                found.append(f"{where} imports {name}")
        elif FLOORS[where] == "F1" and top in IMPURE:
            found.append(f"{where} is pure and imports {name}")
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_what_stands_above_it(path: Path) -> None:
    where = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert where in PLACES, f"{where} has no floor yet"
    assert faults(where, path.read_text()) == []


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("framing", "import socket"),
        ("transfer", "from time import monotonic"),
        ("transfer", "from enchufe.store import LocalStore"),
        ("store", "from enchufe.transfer import messages"),
        ("transports", "from enchufe import connection"),
        ("errors", "def late():\n    import enchufe.buffer"),
        ("server", "from enchufe.engines import threads"),
    ],
)
def test_an_import_across_the_floors_is_found(where: str, code: str) -> None:
    assert len(faults(where, code)) >= 1
