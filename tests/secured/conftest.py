"""Two people, on one machine or on two, and what one has for the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.namespaces import Machine, two_machines
from tests.secured.people import Person, two_people


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as machines:
        yield machines


@pytest.fixture
def people(tmp_path: Path) -> Iterator[tuple[Person, Person]]:
    with two_people(tmp_path) as people:
        yield people


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "carta.txt"
    path.write_text("querida Ana")
    return path
