"""How many at once, and how they stop: one file per engine, the same names in each."""
