# The two commands a newcomer needs: `make demo` and `make test`. Both set themselves up.
PYTHON ?= python3
BIN = .venv/bin

.venv/ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q src  # else every start would take twice as long where PYTHONDONTWRITEBYTECODE is set
	touch $@

demo: .venv/ready
	$(BIN)/enchufe demo

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin src

test: check
	sh tests/packages.sh
	$(BIN)/python -m pytest -n 4 --dist loadfile

# New versions of what we depend on, with their hashes, for every Python and platform we support.
lock:
	uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --no-emit-index-url \
	    pyproject.toml --group dev -o requirements/dev.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: demo check test lock clean
