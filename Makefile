# One command a wish; each makes or refreshes .venv first, when that is needed.
PYTHON ?= python3
PY     := .venv/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check --no-input
STAMP  := .venv/.stamp
SPREAD := -n 2 --dist loadfile
# A thread a process: there are as many processes as cores, and networks of tests are small.
TEST   := OMP_NUM_THREADS=1 $(PY) -m pytest

# Someone's path settings must not leak other packages into the environment.
unexport PYTHONPATH PYTHONHOME
.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all check lint bench constraints clean

help: ## list what can be made
	@echo "make TARGET   (PYTHON=python3.12 chooses another Python for .venv)"
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  %-12s %s\n", $$1, $$2}'

venv: $(STAMP) ## make .venv with everything in it, nothing else

demo: $(STAMP) ## videos made, sharded, trained on, registered, and a new video answered
	@$(PY) pipelines/demo.py

test: $(STAMP) ## the tests, without the slow ones
	@$(TEST) $(SPREAD)

test-all: $(STAMP) ## all tests, slow ones one by one, with a line in tests/bench/RESULTS.md
	@mkdir -p .cache && rm -f .cache/quick.xml .cache/slow.xml
	@$(TEST) $(SPREAD) --junitxml=.cache/quick.xml; quick=$$?; \
	 $(TEST) -m slow --junitxml=.cache/slow.xml; slow=$$?; \
	 $(PY) tests/bench/record.py .cache/quick.xml .cache/slow.xml; exit $$((quick + slow))

check: $(STAMP) ## format, lint, types, layers, tests: what continuous integration runs
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy platform plugins/clipmill_*
	@$(TEST) -q tests/test_layers.py
	@$(TEST) $(SPREAD)

lint: $(STAMP) ## format the code and mend what ruff can mend
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

bench: $(STAMP) ## benchmarks with rivals: a table, and tests/bench/results.json; an hour or two
	@$(PIP) install -qq -c deploy/constraints.txt -e '.[dev,bench]'
	@$(PY) tests/bench/run.py

constraints: $(STAMP) ## write the versions in .venv to deploy/constraints.txt
	@$(PIP) list --format=freeze --exclude-editable --exclude pip > deploy/constraints.txt.new
	@mv deploy/constraints.txt.new deploy/constraints.txt
	@touch $(STAMP)

clean: ## remove caches and build outputs; .venv, data and runs stay
	@rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	@find platform plugins pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that an environment whose making was broken off is seen as such
# and made again from nothing. It holds the place it was made for: an environment does not
# survive being moved. Where only the requirements changed, they are installed in place.
ifneq ($(shell [ -x $(PY) ] && cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
$(STAMP): new-venv
endif
.PHONY: new-venv
new-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	 echo "got $$($(PYTHON) --version 2>&1); wanted Python 3.11 or newer; try: make $(or $(MAKECMDGOALS),venv) PYTHON=python3.12" >&2; exit 1; }
	@echo "Making .venv, once: about 6.5 GB to fetch and unpack, 2 to 5 minutes."
	@$(PYTHON) -m venv --clear .venv

$(STAMP): pyproject.toml deploy/constraints.txt
	@echo "Installing what pyproject.toml asks for, in the versions of deploy/constraints.txt."
	@$(PIP) install -qq -c deploy/constraints.txt -e '.[dev]'
	@printf '%s' '$(CURDIR)' > $@
