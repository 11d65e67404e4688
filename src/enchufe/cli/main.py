"""The command line from its start to its end: what happens around whichever command runs.

All that takes long to import is imported where an interruption is heeded already.
"""

from __future__ import annotations

import gc
import io
import os
import sys

from enchufe.cli import interruptions

# Objects after which to look for cycles: there are next to none, and Python's 700 cost a start a tenth of its time.
_GARBAGE = 100_000


def main() -> None:
    """Run the command line."""
    interruptions.heed()
    try:
        _occupy_standard_streams()
        gc.set_threshold(_GARBAGE)
        code = _ended()
        interruptions.over(code)
    except KeyboardInterrupt:
        from enchufe.cli import exits  # noqa: PLC0415 (slow to import)

        code = exits.INTERRUPTED
        interruptions.over(code)
        from enchufe.cli import output  # noqa: PLC0415 (slow to import)

        output.tell("enchufe: interrupted\n")
    gc.freeze()  # or all that was imported would be looked through before the end, which takes longer than the end
    sys.exit(code)


def _ended() -> int:
    """Run the command that is asked for, and tell what it did not tell itself: the exit code."""
    from enchufe.cli import exits, output  # noqa: PLC0415 (slow to import)
    from enchufe.errors import EnchufeError  # noqa: PLC0415 (slow to import)

    if sys.stdout is not None:
        sys.stdout = output.printing()
    try:
        return _run()
    except EnchufeError as error:
        from enchufe.cli.short import failed  # noqa: PLC0415 (slow to import, and seldom needed)

        return failed(error)
    except Exception:  # noqa: BLE001 (whatever comes here is our fault, and is told whole)
        import traceback  # noqa: PLC0415 (slow to import, and bugs are few)

        told = "enchufe: this is a bug; please report it where you got enchufe, with the lines above\n"
        output.tell(traceback.format_exc() + told)
        return exits.UNEXPECTED


def _run() -> int:
    """As `_ended`, but whatever goes wrong is raised, other than a wrong usage."""
    import click  # noqa: PLC0415 (slow to import)

    from enchufe.cli import exits  # noqa: PLC0415 (slow to import)
    from enchufe.cli.output import tell  # noqa: PLC0415 (slow to import)
    from enchufe.cli.root import NAME, cli  # noqa: PLC0415 (slow to import)

    if os.environ.get(f"_{NAME.upper()}_COMPLETE"):  # a shell asks what could be typed
        cli.main(prog_name=NAME)
    # Not by `cli.main`, which has ends of its own for interruptions and for a standard output that nobody reads.
    try:
        with cli.make_context(NAME, sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        told = io.StringIO()
        error.show(told)
        tell(told.getvalue())
        return error.exit_code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else exits.DONE
    return exits.DONE


def _occupy_standard_streams() -> None:
    """Where a standard stream is closed, keep its number from a socket or file that would be taken for it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # Takes the lowest free number, which is this one. What is lost on standard output must not pass for shown.
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (open for as long as we run)
