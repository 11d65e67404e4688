"""Argument parsing and printing live only here."""
