"""What `enchufe receive` does where it has to ask, over a connection in plain text: terminal, folder, options."""

from __future__ import annotations

import os
import sys

import enchufe
from enchufe.cli import interruptions
from enchufe.cli.commands.transfer import run_transfer
from enchufe.cli.consent import asking
from enchufe.cli.show import screen

if __name__ == "__main__":
    interruptions.heed()
    terminal, inbox, *options = sys.argv[1:]
    if terminal:
        os.close(os.open(terminal, os.O_RDWR))  # a session without a terminal takes the first one that it opens
    shown = screen(as_json=False, quiet=False, verbose=False, sending=False, plain=True)
    ask = asking(shown, plain=False, yes="--yes" in options, no_input=False)
    run_transfer(
        shown,
        lambda: enchufe.receive_files(inbox, listen="127.0.0.1:0", plain=True, ask=ask, retry=0, on_event=shown.show),
    )
