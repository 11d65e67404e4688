"""Cuts at exactly the k-th byte: CI's share of them."""

from __future__ import annotations

import random
from collections import Counter

from enchufe import events
from enchufe.entry import BLOCK_SIZE
from tests.crash import cuts
from tests.crash.cuts import Point
from tests.crash.wire import Harm, attempt
from tests.everywhere import everywhere


def share() -> list[Point]:
    rng = random.Random(4)
    chosen = cuts.points()
    new = rng.sample([point for point in chosen if point.scene == "new"], 160)
    rest = rng.sample([point for point in chosen if point.scene == "rest"], 40)
    folders = rng.sample([point for point in chosen if point.scene == "folders"], 60)
    return new + rest + folders + cuts.large(4, 40)


def test_cut_at_any_byte() -> None:
    chosen = share()
    jobs = [chosen[first::8] for first in range(8)]
    ends = sum(everywhere(cuts.runs, jobs), Counter[str]())
    assert ends["cut"] >= 100
    assert ends["resumed"] >= 5


def test_the_ends_of_every_message_of_the_receiver() -> None:
    """It says little where nothing is there: every byte of it is in CI's share."""
    most = cuts.length("new", sender_says=False, sender_dials=True)
    chosen = [Point("new", False, at, at % 2 == 0) for at in range(most)]
    ends = sum(everywhere(cuts.runs, [chosen[first::4] for first in range(4)]), Counter[str]())
    assert ends["receipt lost"] >= 1
    assert ends.total() == most


def test_folders_that_are_the_same_cost_little() -> None:
    """Of what is cut here: forty folders of five files."""
    assert cuts.length("folders", sender_says=True, sender_dials=True) < 8000


def test_one_stream_of_two_is_cut() -> None:
    """The other one carries what it had not brought, in the same attempt."""
    for seed in range(4):
        at = random.Random(seed).randrange(100, BLOCK_SIZE)
        sent, store = cuts.source("large"), cuts.target("large")
        done = attempt(sent, store, Harm(True, at, connection=1), streams=2)
        assert isinstance(done.sender, events.Receipt), done
        size = sum(len(node.data) for node in sent.nodes.values())
        assert done.sender.sent_bytes >= size  # and again what lay in the sockets of the one that was cut
        assert isinstance(done.receiver, events.Receipt), done
        assert done.receiver.sent_bytes == size, "what had arrived came again"
        assert store.contents() == sent.contents()
