# make demo, make test, make test-browser, make lab and make docs each do all of their own set-up, in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Test workers, one more than two cores: tests that wait leave theirs. Each computes with one thread, and takes files in the order of tests/conftest.py: the longest first.
WORKERS ?= 3

.PHONY: demo test test-browser test-oldest lab lint docs clean

demo: $(STAMP)
	$(BIN)/s3pet demo

test: $(STAMP)
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore tests/browser \
		-m "not browser"

# What is drawn in a headless Chromium (JupyterLab, figures, reports, pictures), one after the other.
test-browser: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser $(shell grep -rl --include=test_*.py mark.browser tests)

# The oldest dependencies that pyproject.toml allows (torch apart), in an environment of their own.
OLDEST := .venv-oldest
test-oldest:
	test -x $(OLDEST)/bin/python || "$(PYTHON)" -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt \
		-e ".[hub,notebook,export,dask,slurm,minilm,peft,tracking,metrics]" "pytest>=8" pytest-timeout hypothesis
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -o addopts= -o filterwarnings=default --timeout 300 \
		tests/structure tests/runs tests/tasks tests/analysis tests/backbones tests/pet tests/figures

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/mkdocs build --strict -f docs/mkdocs/mkdocs.yml

clean:
	rm -rf $(VENV) $(OLDEST) notebooks/runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed, found: $$("$(PYTHON)" --version 2>&1). Give another: make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
