# make mood    sets up and runs the main recipe       make test    sets up and runs all tests, slow ones as well
# make check   ruff, mypy and import-linter           make gpu     replaces faiss-cpu by faiss-gpu in the environment
# make campaign  attacks it with random damage        make bench   runs the benchmarks
# make paper-small                                     the small twins of the paper's tables and figures; DATA=DIR holds the CIFAR files

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev

# PIP_CONSTRAINT, not --constraint: it holds for the isolated build environment as well
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/pip --disable-pip-version-check

DATA ?= ../shared/data
TWINS := $(addprefix paper/small/,table1 table2 table3 table4 table5 table6 table7 table8 table9 figure1 figure2 figure3)

# the targets share one environment
.NOTPARALLEL:
.PHONY: mood paper-small paper-data test campaign check bench gpu clean

mood: $(READY)
	$(BIN)/ood-run recipes/mood.yaml

# the data first: it is a pity to install everything before one hears that they are missing
paper-small: paper-data $(READY)
	$(BIN)/ood-run $(TWINS) --set data.root=$(DATA)

paper-data:
	@ls $(DATA)/cifar10/train-*.parquet $(DATA)/cifar10/test-*.parquet $(DATA)/cifar100/test-*.parquet > /dev/null 2>&1 || \
	  { echo "$(DATA) lacks cifar10/train-*.parquet, cifar10/test-*.parquet or cifar100/test-*.parquet; make paper-small DATA=DIR"; exit 1; }

# one thread for each test process: torch's own threads would only get into each other's way; files with slow tests
# come first (tests/conftest.py), and a file stays in one process, which shares what its tests share
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'slow or not slow' --numprocesses auto --dist loadfile --no-loadscope-reorder \
	  --ignore tests/campaign

# other damage: CAMPAIGN_SEED=7 make campaign
campaign: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow tests/campaign

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV)
	$(PIP) install --editable '.[dev,bench]'
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/extraction.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/side_by_side.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/page.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/scorers.py

# faiss-cpu and faiss-gpu own the same folder `faiss`: the one must be gone before the other comes; and $(DEV), as
# installing it later would bring faiss-cpu back
gpu: $(DEV)
	$(BIN)/pip uninstall --yes faiss-cpu faiss-gpu
	$(PIP) install faiss-gpu

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# what recipes need
$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.)

# and what tests, checks and benchmarks need
$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.[dev])
	touch $(READY)

# the hook: torchvision from PyPI beside a CPU build of torch (docs/installation.md)
define install
@echo "Installing $(1) and the packages that it needs into $(VENV), torch among them: one to five minutes"
$(PIP) install --editable '$(1)'
$(BIN)/python -m ood_core.runtime.torchvision_hook
touch $@
endef

clean:
	rm -rf $(VENV) dist
