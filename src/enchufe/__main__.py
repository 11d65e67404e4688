"""The command `enchufe`, also as `python -m enchufe`."""

# Not `signal`, which is made of it: to import that takes longer than all else before.
import _signal  # type: ignore[import-not-found]

# Until `main` heeds it: Ctrl-C ends us as silently as any program, and not by a traceback out of some import.
if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from enchufe.cli.main import main

if __name__ == "__main__":
    main()
