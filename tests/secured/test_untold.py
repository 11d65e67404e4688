"""A listener that cannot tell of whoever came: it ends, and waits for nobody behind a code that nobody sees."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from enchufe import events
from enchufe.errors import EnchufeError, StoreError
from tests.secured.entrances import Place
from tests.secured.people import HERE, PATIENCE, Person


def test_what_was_raised_beside_is_raised_where_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = Place()
    full = StoreError("cannot write standard output")

    def tell(event: events.Event) -> None:
        if isinstance(event, events.WrongCode):
            raise full

    place.entrance._on_event = tell
    try:
        _, far = place.meet(place.wrong())
        assert far is full
        with pytest.raises(EnchufeError) as caught:
            place.entrance.check()
        assert caught.value is full
    finally:
        place.close()


def test_the_command_ends_where_nobody_reads_it_any_more(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    command = ana.command("send", file, *HERE, "--json")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ana.environment()
    ) as sender:
        assert sender.stdout is not None
        assert sender.stderr is not None
        try:
            address = json.loads(sender.stdout.readline())["address"]
            code = json.loads(sender.stdout.readline())["code"]
            sender.stdout.close()
            assert blas.receive(address, "--retry", "0", code=code).end() != 0
            assert sender.wait(PATIENCE) != 0
            assert b"standard output" in sender.stderr.read()
        finally:
            sender.kill()
