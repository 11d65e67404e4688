"""Coming back with a token whose quota is as big as the file, with the commands: for the rest, or the receipt alone."""

from __future__ import annotations

import json
from pathlib import Path

from tests.secured.people import HERE, MIB, Person, generated
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import CuttingRelay

SERVING = (*HERE, "--tokens")

# Cut once, when all content has crossed and before the receipt.
CUT_AT_THE_END = """
import sys
from enchufe.cli.main import main
from enchufe.errors import BrokenError
from enchufe.store.delivery import Delivery

whole = Delivery.commit


def once(delivery, **_):
    Delivery.commit = whole
    raise BrokenError("cut")


Delivery.commit = once
sys.argv[0] = "enchufe"
main()
"""


def link_of(person: Person, size: int) -> str:
    made = person.do("token", "new", "--to", "127.0.0.1:9", "--quota", str(size))
    assert made.returncode == 0, made
    return made.stdout.strip()


def aimed(link: str, address: str) -> str:
    return link.replace("127.0.0.1:9/", f"{address}/")


def used(person: Person) -> int:
    (token,) = json.loads(person.do("token", "list", "--json").stdout)["tokens"]
    return int(token["used"])


def test_for_the_rest_from_a_listener_that_was_started_anew(people: tuple[Person, Person], tmp_path: Path) -> None:
    ana, blas = people
    file = generated(tmp_path / "big", 8 * MIB)
    link = link_of(blas, 8 * MIB)
    receiver = blas.receive(*SERVING)
    with CuttingRelay(5 * MIB, there=True, kept=lambda: kept_bytes(blas.inbox) >= 2 * MIB) as relay:
        relay.to = receiver.address
        slow = ("--retry", "0", "--streams", "1", "--compress", "never")
        assert ana.send(file, options=("--to", aimed(link, relay.address), *slow)).end() == 4
    receiver.wait_for("error")  # it has noticed, and given back what did not come
    receiver.process.terminate()
    receiver.end()
    kept = kept_bytes(blas.inbox)
    assert used(blas) == kept >= 2 * MIB
    receiver = blas.receive(*SERVING)
    sender = ana.send(file, options=("--to", aimed(link, receiver.address)))
    assert (sender.end(), receiver.end()) == (0, 0)
    assert sender.receipt["sent_bytes"] == 8 * MIB - kept
    assert used(blas) == 8 * MIB
    assert (blas.inbox / "big").read_bytes() == file.read_bytes()


def test_for_the_receipt_with_nothing_left(people: tuple[Person, Person], tmp_path: Path) -> None:
    ana, blas = people
    file = generated(tmp_path / "big", 3 * MIB)
    link = link_of(blas, 3 * MIB)
    receiver = blas.receive(*SERVING, program=("-c", CUT_AT_THE_END))
    sender = ana.send(file, options=("--to", aimed(link, receiver.address)))
    assert (sender.end(), receiver.end()) == (0, 0)
    assert sender.named("retrying")
    assert (sender.receipt["bytes"], sender.receipt["sent_bytes"]) == (3 * MIB, 0)
    assert used(blas) == 3 * MIB
    receiver = blas.receive(*SERVING)
    sender = ana.send(file, options=("--to", aimed(link, receiver.address)))
    assert sender.end() == 3
    assert sender.error["kind"] == "token_refused"


def test_nobody_else_comes_in_on_what_a_cut_transfer_left_open(people: tuple[Person, Person], tmp_path: Path) -> None:
    """Not even for what need not cross; nor does that end what the cut one may come back for."""
    ana, blas = people
    file, empty = generated(tmp_path / "big", 3 * MIB), generated(tmp_path / "empty", 0)
    link = link_of(blas, 3 * MIB)
    receiver = blas.receive(*SERVING, program=("-c", CUT_AT_THE_END))
    to = aimed(link, receiver.address)
    assert ana.send(file, options=("--to", to, "--retry", "0")).end() == 4
    other = ana.send(empty, options=("--to", to))
    assert other.end() == 3
    assert "nothing left for this transfer" in other.error["message"]
    sender = ana.send(file, options=("--to", to))
    assert (sender.end(), receiver.end()) == (0, 0)
    assert sender.receipt["sent_bytes"] == 0
    assert not (blas.inbox / "empty").exists()
