"""What holds for every test."""

import signal

from hypothesis import settings

# Where the tests were started in the background of a shell, which has them and their children ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Timings never decide a test: machines are shared and noisy.
settings.register_profile("enchufe", deadline=None, print_blob=True)
settings.load_profile("enchufe")
