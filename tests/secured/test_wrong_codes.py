"""Codes that are wrong, used or too old, with the commands: who is refused, and how whoever waits ends."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.secured.people import HERE, Person

# The listener's command, with codes that live for less.
SHORT = (
    "-c",
    "import sys; sys.argv[0] = 'enchufe'; from enchufe.access import codes; codes.LIFE = 1.0;"
    " from enchufe.cli.main import main; main()",
)


def another(code: str) -> str:
    """A code of the same label and other words."""
    label = code.partition("-")[0]
    wrong = f"{label}-zebra-zebra-zebra"
    return wrong if wrong != code else f"{label}-zebra-zebra-abandon"


def test_the_third_wrong_code_ends_it(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    sender = ana.send(file, options=HERE)
    for _ in range(3):
        receiver = blas.receive(sender.address, code=another(sender.code()))
        assert receiver.end() == 3
        assert receiver.error["kind"] == "wrong_code"
        assert "third wrong guess" in receiver.error["hint"]
        assert not receiver.named("offer")
    assert sender.end() == 3
    assert "three wrong codes" in sender.error["message"]
    assert "new code" in sender.error["hint"]
    assert len(sender.named("code")) == 1
    assert not list(blas.inbox.glob("*"))


def test_a_right_code_after_two_wrong_ones(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    sender = ana.send(file, options=HERE)
    for _ in range(2):
        assert blas.receive(sender.address, code=another(sender.code())).end() == 3
    receiver = blas.receive(sender.address, code=sender.code())
    assert (receiver.end(), sender.end()) == (0, 0)
    assert (blas.inbox / file.name).read_text() == file.read_text()


def test_the_other_way_round(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    receiver = blas.receive(*HERE)
    for _ in range(3):
        sender = ana.send(file, options=("--to", receiver.address), code=another(receiver.code()))
        assert sender.end() == 3
        assert sender.error["kind"] == "wrong_code"
    assert receiver.end() == 3
    assert "three wrong codes" in receiver.error["message"]


def test_whoever_is_known_may_still_come(people: tuple[Person, Person], file: Path) -> None:
    """Then a dead code ends nothing, and that it is dead is told."""
    ana, blas = people
    sender = ana.send(file, options=(*HERE, "--remember"))
    assert blas.receive(sender.address, "--remember", code=sender.code()).end() == 0
    assert sender.end() == 0
    (name,) = blas.known()
    sender = ana.send(file, options=HERE)
    for _ in range(3):
        assert blas.receive(sender.address, code=another(sender.code())).end() == 3
    sender.wait_for("code_gone")
    assert blas.receive(sender.address, code=sender.code()).end() == 3
    receiver = blas.receive(f"@{name}", "--to", sender.address)
    assert (receiver.end(), sender.end()) == (0, 0)
    assert receiver.named("paired")[0]["way"] == "key"


def test_a_code_has_one_use(people: tuple[Person, Person], tmp_path: Path) -> None:
    ana, blas = people
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 4096 * 16)
    sender = ana.send(big, options=(*HERE, "--limit", "4MB/s", "--compress", "never"))
    first = blas.receive(sender.address, code=sender.code())
    first.wait_for("progress")
    second = blas.receive(sender.address, code=sender.code())
    assert second.end() == 3
    assert second.error["kind"] == "code_gone"
    assert (first.end(), sender.end()) == (0, 0)


def test_a_code_that_is_too_old(people: tuple[Person, Person], file: Path) -> None:
    ana, _blas = people
    sender = ana.send(file, options=HERE, program=SHORT)
    assert sender.end() == 4
    assert "ten minutes" in sender.error["message"]
    assert "new one" in sender.error["hint"]


def test_a_code_that_is_too_old_where_somebody_is_known(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    sender = ana.send(file, options=(*HERE, "--remember"))
    assert blas.receive(sender.address, "--remember", code=sender.code()).end() == 0
    sender = ana.send(file, options=HERE, program=SHORT)
    sender.wait_for("code_gone")
    receiver = blas.receive(sender.address, code=sender.code())
    assert receiver.end() == 3
    assert receiver.error["kind"] == "code_gone"


def test_who_connects_and_asks_nothing_uses_up_no_guess(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    sender = ana.send(file, options=HERE)
    host, _, port = sender.address.rpartition(":")
    for _ in range(4):
        socket.create_connection((host, int(port))).close()
    receiver = blas.receive(sender.address, code=sender.code())
    assert (receiver.end(), sender.end()) == (0, 0)
