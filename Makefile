# make demo | test | check | native | messages | docs | bench | bench-objectives | bench-understanding | test-full | drill | clean
#
# Everything happens in .venv, which is made on first use and again when pyproject.toml or constraints.txt change.
#   make demo PYTHON=python3.12        another interpreter (3.11 or newer)
#   make demo PIP_ARGS="--index-url …" another place to get packages from
#   make demo ARGS="--output my-demo"  flags for the verb itself
#   make test ARGS="-n 0 -k simcse"    and for pytest, which runs as many processes as there are cores
#   make docs                          the documentation as a site: open site/index.html
#   make drill                         kills, failing disks, flipped bits, hostile files: half an hour

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=

CC ?= cc
CFLAGS ?= -O3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --quiet --constraint constraints.txt $(PIP_ARGS)
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
BABEL := PYTHONPATH=. $(BIN)/pybabel --quiet
CATALOGUE := --output-dir pretune/locale --domain pretune
CORE := $(VENV)/.installed
DEVELOP := $(VENV)/.installed-develop
SITE := $(VENV)/.installed-docs

.PHONY: demo test test-full drill check format native docs messages bench bench-objectives bench-understanding clean
.DELETE_ON_ERROR:

demo: $(CORE)
	$(BIN)/pretune demo $(ARGS)

test: $(DEVELOP)
	$(PYTEST) $(ARGS)

test-full: $(DEVELOP)
	$(PYTEST) -m "not drill" --timeout=3600 $(ARGS)

drill: $(DEVELOP)
	$(PYTEST) -m drill --timeout=1800 tests/drill $(ARGS)

check: $(DEVELOP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict pretune benchmarks
	$(BIN)/lint-imports --no-cache

native: pretune/native/_kernels.so

pretune/native/_kernels.so: pretune/native/kernels.c
	$(CC) -std=gnu11 $(CFLAGS) -ffp-contract=off -fvisibility=hidden -fPIC -shared -pthread -o $@ $< -lm

messages: $(DEVELOP)
	@mkdir -p build
	$(BABEL) extract --mapping-file babel.cfg --add-location file --sort-by-file --width 118 --output build/pretune.pot .
	$(BABEL) update --no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date --width 118 --input-file build/pretune.pot $(CATALOGUE)

format: $(DEVELOP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet $(ARGS)

bench: $(CORE)
	$(BIN)/python -m benchmarks $(ARGS)

bench-objectives: $(CORE)
	@$(INSTALL) --editable '.[zh]'
	$(BIN)/python -m benchmarks.quality $(ARGS)

bench-understanding: $(CORE)
	@$(INSTALL) --editable '.[zh]'
	$(BIN)/python -m benchmarks.understanding $(ARGS)

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pretune needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(CORE): pyproject.toml constraints.txt pretune/native/kernels.c | $(BIN)/python
	@echo "Installing pretune into $(VENV) (a few minutes the first time)"
	@$(INSTALL) --editable .
	@touch $@

$(DEVELOP): $(CORE)
	@echo "Installing what the tests and checks need"
	@$(INSTALL) --editable '.[test,check]'
	@touch $@

$(SITE): $(CORE)
	@echo "Installing what the documentation needs"
	@$(INSTALL) --editable '.[docs]'
	@touch $@
