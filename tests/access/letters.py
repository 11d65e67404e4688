"""Letters that codes in tests are made of."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

# Some letters come apart when they are normalized, and into more than letters.
letters = st.characters(categories=["L"]).filter(lambda letter: unicodedata.normalize("NFC", letter).isalpha())
