"""The `enchufe` command: parsing arguments and printing live only here."""
