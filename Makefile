# make demo      set up, then the main job: fetch, train, export, serve, query, report
# make evidence  the same, and the same text for the base with its own tokens and for plain rows, in the same table
# make test      set up, then all tests
# make checks    formatting, lint, types
PYTHON ?= python3.11
RECIPE ?= launch/recipes/demo_de.toml
DEVICE ?= auto
FLAGS ?=
BIN := .venv/bin
EXTRA := $(if $(filter cuda,$(DEVICE)),gpu,cpu)

.PHONY: demo evidence test checks setup clean

demo: setup
	$(BIN)/prealign demo $(RECIPE) --device $(DEVICE) $(FLAGS)

evidence: setup
	$(BIN)/prealign demo $(RECIPE) --device $(DEVICE) --evidence $(FLAGS)

test: setup checks
	$(BIN)/python -m pytest $(FLAGS)

checks: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

setup: .venv/ready-$(EXTRA)

# The lock has a hash for every file but torch's: its build differs by machine, so pip's own configuration chooses it.
# The lock is complete, and --no-deps keeps out what it leaves out: torchvision, which fits no CPU build of torch.
.venv/ready-cpu: locks/cpu.txt locks/torch.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not there; give one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r locks/torch.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r locks/cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.venv/ready-gpu: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[gpu,dev]"
	touch $@

clean:
	rm -rf .venv runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
