# Every target sets up what it needs in .venv and is quick when run again.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo serve as-root test test-compose test-gpu fuzz soak lint bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# pip and not another resolver: torch's CPU and CUDA builds differ by index, and pip takes the one that is configured.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import ensurepip, sys; assert sys.version_info >= (3, 11)' 2>/dev/null || { \
	  echo "Python 3.11 or newer with venv is needed (Debian: python3.11-venv); another one: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[production,monitoring,test,lint]'
	@touch $@

demo: $(VENV)/.installed ## train, attack, compare and serve on real images, in a few minutes
	$(BIN)/clead demo

serve: $(VENV)/.installed ## the service on this machine: API, one worker, SQLite, no broker
	$(BIN)/clead serve

as-root:
	@[ "$$(id -u)" -eq 0 ] || { \
	  echo "Run the tests as root, in a container, say: they make network namespaces, drop packets and mount small disks."; exit 1; }

test: as-root $(VENV)/.installed-dev ## every test, with a real Redis, PostgreSQL and browser; needs root
	@tests/system/install-servers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=30

test-compose: $(VENV)/.installed-dev ## the containers: built, used, killed, taken down; needs Docker with Compose v2
	$(BIN)/python -m pytest -m docker tests/compose

test-gpu: $(VENV)/.installed-dev ## every method, attack and probe on a CUDA device, beside the CPU
	$(BIN)/python -m pytest -m gpu tests/models/test_gpu.py

fuzz: $(VENV)/.installed-dev ## 10,000 requests generated from the OpenAPI document, to a real server; CASES=… SEED=…
	$(BIN)/python -m tests.fuzz.run --cases $(or $(CASES),10000) $(if $(SEED),--seed $(SEED))

soak: $(VENV)/.installed-dev ## 100 kills of everything at random moments, against unbroken runs; KILLS=… SEED=…
	@tests/system/install-servers
	OMP_NUM_THREADS=1 $(BIN)/python -u -m tests.soak --kills $(or $(KILLS),100) --seed $(or $(SEED),0)

lint: $(VENV)/.installed-dev ## style, types, dependency rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# adv-lib asks for visdom, which it needs for plots alone and which does not build on a current Python.
$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'adv-lib>=0.2.3,<0.3'
	@touch $@

bench: $(VENV)/.installed-bench ## attacks beside torchattacks, foolbox, ART and adv-lib; DATA=cifar10.zip instead of a download
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.attacks $(DATA)

clean: ## remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
