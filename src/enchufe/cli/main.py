"""The command line from its start to its end: all commands joined, and what happens around whichever runs."""

from __future__ import annotations

import gc
import os
import sys
from typing import Final

import click

import enchufe
from enchufe.cli import exits
from enchufe.cli.commands.groups import config, peers, store, token
from enchufe.cli.commands.talk import connect, listen
from enchufe.cli.commands.transfer import receive, send
from enchufe.cli.commands.trials import bench, demo
from enchufe.cli.config import Configured

# Objects after which to look for cycles: there are next to none, and Python's 700 cost a start a tenth of its time.
_GARBAGE: Final = 100_000


@click.group(
    cls=Configured,
    commands=[send, receive, connect, listen, bench, demo, store, peers, token, config],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(enchufe.__version__)
def cli() -> None:
    """Send files and folders from one machine to another.

    On one machine `enchufe send PATH`, which shows a code; on the other `enchufe receive CODE`.

    Exit codes: 0 done, and on the other side's disk; 2 usage; 3 refused, or not who it claimed to be, or the other
    side's disk is full; 4 not reached, cut or timed out; 5 verification failed; 6 this machine's disk; 7 done, but
    some entries were left out; 130 interrupted; 1 a bug.
    """


def _occupy_standard_streams() -> None:
    """Where a standard stream is closed, keep its number from a socket or file that would be taken for it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (open for as long as we run)


def main() -> None:
    """Run the command line."""
    _occupy_standard_streams()
    gc.set_threshold(_GARBAGE)
    try:
        cli(prog_name="enchufe")
    except Exception:  # noqa: BLE001 (whatever comes here is our fault, and is told whole)
        import traceback  # noqa: PLC0415 (slow to import, and bugs are few)

        traceback.print_exc()
        sys.stderr.write("enchufe: this is a bug; please report it where you got enchufe, with the lines above\n")
        sys.exit(exits.UNEXPECTED)
    finally:
        gc.freeze()  # or all that was imported would be looked through before the end, which takes longer than the end
