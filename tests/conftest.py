"""What holds for every test."""

from hypothesis import settings

# Timings never decide a test: machines are shared and noisy.
settings.register_profile("enchufe", deadline=None, print_blob=True)
settings.load_profile("enchufe")
