# Every target makes .venv first, where it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin
SCRIPT_DIRS := t2i pipelines training eval tests scripts
WHEEL := build/wheel

.PHONY: demo test test-slow test-faults test-wheel lint format docs weights bench clean

demo: .venv/ready
	$(BIN)/t2i generate "an avocado armchair" --pipeline toybox/dalle --pipeline toybox/ldm --num-images 4 --out avocado-armchair.png

# On all cores; then, in processes of their own, those that emulate a device; then, alone, those that hold a stopwatch.
PYTEST := -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test: .venv/ready
	$(BIN)/python $(PYTEST)
	$(BIN)/python $(PYTEST) -m "emulated and not slow"
	$(BIN)/python -m pytest -m timed

test-slow: .venv/ready
	$(BIN)/python $(PYTEST) --dist worksteal -m "slow and not emulated"
	$(BIN)/python $(PYTEST) --dist worksteal -m "slow and emulated"

# What happens when processes, disks, data and users fail, the slow tests included.
FAULTS := checkpoints kill_points kill_runs training_processes loading unreadable image_file damaged_pipelines user_files
test-faults: .venv/ready
	$(BIN)/python $(PYTEST) --dist worksteal -m "not timed and not emulated" $(FAULTS:%=tests/test_%.py)

lint: .venv/ready $(WHEEL)
	$(BIN)/ruff check $(SCRIPT_DIRS)
	$(BIN)/ruff format --check $(SCRIPT_DIRS)
	$(BIN)/pyright
	root=$$(pwd); cd $(WHEEL) && $$root/$(BIN)/lint-imports --config $$root/pyproject.toml

# The tests against the built wheel, from outside the root, where only the installed package can be imported.
test-wheel: .venv/ready $(WHEEL)
	root=$$(pwd); cd $$(mktemp -d) && export PYTHONPATH=$$root/$(WHEEL) && \
		$$root/$(BIN)/python -c 'import t2i.eval as e, t2i.pipelines as p, t2i.training as t; \
			assert all("build/wheel" in m.__file__ for m in (e, p, t)), "these are not the installed files"' && \
		$$root/$(BIN)/python $(PYTEST) -c $$root/pyproject.toml \
		-p no:cacheprovider $$root/tests

# The documentation site, in build/docs; warnings are errors.
docs: .venv/ready
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

weights: .venv/ready
	$(BIN)/python scripts/make_weights.py

bench: .venv/ready
	$(BIN)/python scripts/bench.py sampling --out reports/bench

format: .venv/ready
	$(BIN)/ruff check --fix $(SCRIPT_DIRS)
	$(BIN)/ruff format $(SCRIPT_DIRS)

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("t2i needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(WHEEL): .venv/ready $(shell find t2i pipelines training eval -name '*.py' -o -name '*.pyi' -o -name '*.safetensors' -o -name '*.json' -o -name '*.jinja' -o -name '*.css' -o -name '*.js')
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/dist .
	$(BIN)/python -m pip install --quiet --no-deps --target $(WHEEL) build/dist/*.whl
	touch $(WHEEL)

clean:
	rm -rf build .venv *.egg-info
