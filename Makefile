# Each target makes its own .venv from constraints.txt if it is not there.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo fast test tested slow lint docs reference bench gpu chaos cluster cluster-short million clean

.venv/made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

demo: .venv/made
	@mkdir -p demo
	$(BIN)/fedsweep plan examples/digits.toml --db sqlite:///demo/digits.db
	$(BIN)/fedsweep work --db sqlite:///demo/digits.db --device cpu --slots 2 --until-empty
	$(BIN)/fedsweep report --db sqlite:///demo/digits.db
	$(BIN)/fedsweep report --db sqlite:///demo/digits.db --format html --output demo/report.html

# The processes that tests start share what the first of them has compiled.
fast tested slow cluster cluster-short: export PYTHONDONTWRITEBYTECODE =

# For each commit: no test starts a process or builds a large model.
fast: .venv/made
	$(BIN)/python -m pytest -n 2 --dist worksteal -p tests.no_processes \
	  -m "not slow and not cluster and not process and not large"

# The checks of `lint` run beside the first tests.
test: .venv/made
	@$(MAKE) --no-print-directory -j 2 lint tested

tested: .venv/made
	$(BIN)/python -m pytest -n 4 --dist worksteal --durations=30 -m "not slow and not cluster"

# The tests that `make test` leaves out: the wheel, most examples, real images, a crowd of workers,
# further variants of long tests, and the second database of tests that are not about SQL.
slow: .venv/made
	$(BIN)/python -m pytest -n 3 --dist worksteal --durations=10 -m slow

lint: .venv/made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# The documentation site, in site/: open site/index.html. Warnings are errors.
docs: .venv/made
	$(BIN)/python -m reference --check
	$(BIN)/zensical build --strict
	$(BIN)/python -m reference.site site

# The pages of docs/reference/, from the catalogs of the code.
reference: .venv/made
	$(BIN)/python -m reference

bench: .venv/made .venv-flower/made
	$(BIN)/python -m tests.benchmarks

# On a CUDA device: its tests, its figures, and a search on CIFAR-10 in the folder IMAGES.
IMAGES ?= cifar10
gpu: .venv/made
	$(BIN)/python -m tests.benchmarks.whole_gpu $(IMAGES)

# Twenty minutes of killed, stopped and starved workers on each database.
chaos: .venv/made
	$(BIN)/python -m tests.chaos --database sqlite --minutes 20 --verify 10
	$(BIN)/python -m tests.chaos --database postgres --minutes 20 --verify 10

# Launches on a real Slurm and a real Ray of two nodes each, on this machine. Slurm needs root and
# Debian's slurm-wlm and munge; without them, its tests say so and are skipped.
cluster: .venv/made
	$(BIN)/python -m pytest -n 0 --durations=10 -m cluster tests/cluster

# The quickest of them.
cluster-short: .venv/made
	$(BIN)/python -m pytest -n 0 -m "cluster and short" tests/cluster

# A million claims on each database; the claim's query plans with a million trials.
million: .venv/made
	$(BIN)/python -m tests.benchmarks million
	FEDSWEEP_TEST_ROWS=1000000 $(BIN)/python -m pytest tests/unit/store/test_query_plans.py

# The peer wants older versions of these three than ours.
.venv-flower/made: constraints.txt
	$(PYTHON) -m venv .venv-flower
	grep -vE '^(typer|rich|packaging)==' constraints.txt > .venv-flower/constraints.txt
	.venv-flower/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c .venv-flower/constraints.txt -e ".[bench]"
	touch $@

clean:
	rm -rf .venv .venv-flower .cache demo site build dist *.egg-info
