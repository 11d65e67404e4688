"""A window that covers the whole list: nothing is answered before the end of the offer."""

from __future__ import annotations

import pytest

from enchufe.entry import Answer, Entry
from enchufe.errors import RemoteProtocolError
from enchufe.transfer import messages as m
from enchufe.transfer.message import Role
from enchufe.transfer.messages import LIST_WINDOW, WINDOW
from enchufe.transfer.offers import Offer
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.sender import Sender
from tests.pairs.pair import file, join

SESSION = b"x" * 16
STEP = 256


def met(window: int) -> tuple[Sender, Receiver]:
    sender, receiver = Sender(), Receiver()
    receiver.receive_data(join(sender.send(m.Hello(Role.SENDER, SESSION))))
    receiver.next_event()
    sender.receive_data(join(receiver.send(m.Hello(Role.RECEIVER, SESSION, window=window))))
    sender.next_event()
    return sender, receiver


def offer(sender: Sender, receiver: Receiver, entries: list[Entry]) -> None:
    receiver.receive_data(join(sender.send(Offer(entries))))
    heard = receiver.next_event()
    assert isinstance(heard, Offer)
    assert len(heard.entries) == len(entries)


@pytest.mark.parametrize("window", [WINDOW, LIST_WINDOW])
def test_all_of_the_window_is_offered_before_any_answer_and_no_more(window: int) -> None:
    sender, receiver = met(window)
    assert sender.room == window
    for first in range(0, window, STEP):
        offer(sender, receiver, [file(number, 1) for number in range(first, first + STEP)])
    assert sender.room == 0
    receiver.receive_data(join(m.frame(Offer([file(window, 1)]))))
    with pytest.raises(RemoteProtocolError, match=f"more than {window} entries at once"):
        receiver.next_event()


def test_what_is_answered_after_the_end_of_the_offer_goes_its_way() -> None:
    sender, receiver = met(LIST_WINDOW)
    count = 2 * WINDOW
    entries = [file(number, 1) for number in range(count)]
    for first in range(0, count, STEP):
        offer(sender, receiver, entries[first : first + STEP])
    receiver.receive_data(join(sender.send(m.OfferEnd(count, count, 0))))
    assert isinstance(receiver.next_event(), m.OfferEnd)
    assert not sender.has_work
    assert not sender.all_sent
    sender.receive_data(join(receiver.send(receiver.answer((entry, Answer.ALL) for entry in entries))))
    sender.next_event()
    assert sender.has_work
