"""What each command takes, and what it calls; what it does is imported only when it runs."""
