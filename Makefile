# demo · test · check · bench: nothing else to remember. On Windows, see "Without make" in README.md.
PYTHON ?= python3
BIN := .venv/bin
PLUGINS := synth tem sam sem
SOURCES := core plugins tests examples docs

.PHONY: demo test check bench wheels

demo: .venv/ready
	$(BIN)/lamella demo

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadscope

check: .venv/ready
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy -p lamella $(foreach p,$(PLUGINS),-p lamella_$(p))
	$(BIN)/python -W error -m pytest --doctest-modules core/lamella $(foreach p,$(PLUGINS),plugins/$(p)/lamella_$(p))

bench: .venv/ready
	$(BIN)/python -m pytest -s -p no:xdist -o python_files='bench_*.py' tests/bench
	$(BIN)/python tests/bench/bench_perturb.py

wheels: .venv/ready
	rm -rf dist
	for part in . $(foreach p,$(PLUGINS),plugins/$(p)); do $(BIN)/python -m build --wheel --outdir dist $$part || exit 1; done

# The core and its plugins, editable, with everything their tests need.
.venv/ready: pyproject.toml $(foreach p,$(PLUGINS),plugins/$(p)/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(foreach p,$(PLUGINS),-e plugins/$(p)) -e '.[dev]'
	touch $@
