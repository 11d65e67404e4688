"""How a dialer finds whom it wants among those who say that they are it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from enchufe import events, files
from enchufe.access import Admitted, ByCode, Code, listener_certificate
from enchufe.access import messages as m
from enchufe.access.exchange import Exchange
from enchufe.reaching import Secured
from enchufe.transports import parse_address
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import BlockingWaiter, drive
from tests.access.meeting import Place, soon
from tests.secured.test_intruders import listening, send
from tests.sessions.transfers import PATIENCE, Side


def test_a_liar_who_denies_does_not_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    certificate = listener_certificate()

    def deny() -> None:
        """For a reason that nobody knows."""
        with liar.accept() as transport:
            talk = Exchange(transport, soon(), "listener")
            drive(talk.hear(m.Knock))
            drive(talk.say(m.Denied(77)))

    with Place(certificate) as liar, listening(files.receive_files, tmp_path / "inbox") as (side, address):
        thread = threading.Thread(target=deny)
        thread.start()
        code = Code.parse(side.wait_for(events.Code).code)
        places = [[liar.address], [parse_address(address)]]
        secured = Secured(lambda: places, ByCode(code), fixed=False, remember=False, on_event=Side().tell)
        reached = drive(secured.reach(BlockingWaiter(), PATIENCE))
        thread.join(PATIENCE)
        assert reached.transport.peer == address
        assert isinstance(reached.transport, TlsTransport)
        assert reached.secret is not None
        (tmp_path / "file").write_bytes(b"hello")
        send(Admitted(reached.transport, reached.secret, "code"), tmp_path / "file")
    assert side.receipt.files == 1
