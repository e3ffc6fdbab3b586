# Everything runs in .venv, which `make install` fills from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo install check test verify bench lock clean

help:
	@echo "make demo     install, then everything once on synthetic cases (about 12 minutes); goes on if stopped"
	@echo "make test     install, then every test that CI runs (about 6 minutes on 2 quiet cores once installed)"
	@echo "make check    format, lint, types, layers (about a minute)"
	@echo "make verify   check, and the statistical, load and fuzz suites at full size"
	@echo "make bench    training, inference and scaling, as ratios in one run, into build/bench (on a quiet machine)"
	@echo "make install  the package and its tools into .venv"
	@echo "make lock     pin what is installed in .venv into constraints.txt"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make install PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/agfnet demo --out demo

check: $(INSTALLED)
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes of one thread each: the tests are small; in the order of their folders, as the longest files come first
# then and no process waits for another at the end. The full-size ones train networks and measure time: one after
# the other, with all threads. A small test that waits for ever fails, with the stacks of its threads; one that ends
# its process ends the run (a process started anew may wait for tests that are done: pytest-xdist issue 1378).
SMALL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --max-worker-restart 0 --dist loadscope --no-loadscope-reorder --timeout 600 -m "not full" --doctest-modules src/agfnet tests

test: check
	$(SMALL) --durations=15

# Coverage is of the small tests alone: it makes the time that the full-size ones measure twice as long.
verify: check
	$(SMALL) --cov --cov-report=term:skip-covered
	$(BIN)/python -m pytest -m full -rP tests

BENCH := build/bench
ON_PHANTOM := -c configs/phantom.yaml data.table=$(BENCH)/phantom/parts.csv

bench: $(INSTALLED)
	$(BIN)/agfnet phantom $(BENCH)/phantom --cases 300 --balanced
	$(BIN)/agfnet split $(BENCH)/phantom/cases.csv -o $(BENCH)/phantom/parts.csv
	$(BIN)/python benchmarks/training.py $(ON_PHANTOM) | tee $(BENCH)/training.json
	$(BIN)/agfnet train $(ON_PHANTOM) training.epochs=1 -o $(BENCH)/run --resume --profile
	$(BIN)/python benchmarks/inference.py $(BENCH)/run $(BENCH)/phantom/parts.csv | tee $(BENCH)/inference.json
	$(BIN)/python benchmarks/scaling.py -o $(BENCH)

lock: $(INSTALLED)
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
