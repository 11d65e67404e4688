"""What the commands of `store`, `peers`, `token` and `config` take: groups that look after what enchufe keeps."""

from __future__ import annotations

import sys

import click

from enchufe.cli import config as settings
from enchufe.cli.options import Size, in_json


@click.group()
def store() -> None:
    """Look after folders that files are received into."""


@store.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option(
    "--clean",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Remove the one of this name, or all; not those in use.",
)
@in_json
def partials(folder: str, clean: str | None, as_json: bool) -> None:
    """List what cut transfers have left in DIR for the next one to go on with.

    It is kept for a week after the last byte of it came. With --clean, which goes after DIR, it is removed.
    """
    from enchufe.cli.store import partials as run  # noqa: PLC0415 (nobody else needs it)

    sys.exit(run(folder, clean=clean, as_json=as_json))


@click.group(invoke_without_command=True)
@in_json
@click.pass_context
def peers(context: click.Context, as_json: bool) -> None:
    """Look after the machines that are known here; without a command, list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_peers, as_json=as_json)
    elif as_json:
        raise click.UsageError("--json goes after the command")


@peers.command("list")
@in_json
def list_peers(as_json: bool) -> None:
    """List them: name, when last met, where."""
    from enchufe.cli import peers as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.list_all(as_json=as_json))


@peers.command("name")
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
def name_peer(old: str, new: str) -> None:
    """Call the machine OLD otherwise: NEW."""
    from enchufe.cli import peers as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.name(old, new))


@peers.command("remove")
@click.argument("name", metavar="NAME")
def remove_peer(name: str) -> None:
    """Forget a machine: it needs a code again."""
    from enchufe.cli import peers as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.remove(name))


@peers.command("show")
@click.argument("name", metavar="[NAME]", required=False)
@in_json
def show_peer(name: str | None, as_json: bool) -> None:
    """Show a machine's fingerprint as words, and its key; without NAME, this machine's."""
    from enchufe.cli import peers as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.show(name, as_json=as_json))


@click.group()
def token() -> None:
    """Give out links that let whoever has one use a service of this machine."""


@token.command("new")
@click.option("--to", required=True, multiple=True, metavar="ADDR", help="Where the service is: host:port. Repeatable.")
@click.option("--name", metavar="NAME", help="By which to revoke it.  [default: token-1 and so on]")
@click.option(
    "--scope", default="drop", show_default=True, metavar="WORDS", help="drop, read, list, or several: drop,read."
)
@click.option("--quota", type=Size(), metavar="SIZE", help="How much may cross in all, as 10GB.")
@click.option("--expires", metavar="TIME", help="For how long it is good: 45m, 12h, 30d or 2w.")
def new_token(to: tuple[str, ...], name: str | None, scope: str, quota: int | None, expires: str | None) -> None:
    """Make a token and print its link, this one time."""
    from enchufe.cli import token as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.new(name, scope=scope, quota=quota, expires=expires, to=to))


@token.command("list")
@in_json
def list_tokens(as_json: bool) -> None:
    """List tokens: name, what for, how much, until when."""
    from enchufe.cli import token as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.list_all(as_json=as_json))


@token.command("revoke")
@click.argument("name", metavar="NAME")
def revoke_token(name: str) -> None:
    """Have a token be good for nothing from now on."""
    from enchufe.cli import token as commands  # noqa: PLC0415 (slow to import)

    sys.exit(commands.revoke(name))


@click.group()
def config() -> None:
    """Look at settings: flag, ENCHUFE_* variable, file, default, in this order."""


@config.command("show")
@click.argument("command", nargs=-1, metavar="[COMMAND...]")
@in_json
@click.pass_context
def show_config(context: click.Context, command: tuple[str, ...], as_json: bool) -> None:
    """Show every setting, or those of COMMAND, with its value and where that comes from, as a file could say it."""
    sys.exit(settings.show(context, command, as_json=as_json))
