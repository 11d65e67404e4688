"""All commands joined."""

from __future__ import annotations

from typing import Final

import click

import enchufe
from enchufe.cli.commands.groups import config, peers, store, token
from enchufe.cli.commands.talk import connect, listen
from enchufe.cli.commands.transfer import receive, send
from enchufe.cli.commands.trials import bench, demo
from enchufe.cli.config import Configured

NAME: Final = "enchufe"


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
