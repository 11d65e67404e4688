"""`python -m enchufe`."""

from enchufe.cli.main import main

main()
