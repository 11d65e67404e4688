"""The commands as they are typed: what each takes, and what it calls, which is imported only when it runs."""
