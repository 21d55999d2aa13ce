# make demo [SECONDS=20]   a whole mesh with images flowing through it; 0 runs until Ctrl-C
# make test                lint, types and the whole suite
# make check | types | tests   one of them; make tests ARGS="-k arena"
# make tensorrt            what can be tested of the engine without a GPU; downloads 250 MB

SECONDS ?= 20
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check types tests tensorrt install clean

demo: install
	@exec $(BIN)/visionmesh demo --seconds $(SECONDS) --out out/demo

test: check types tests

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

tests: install
	$(BIN)/pytest $(ARGS)

# TensorRT for RTX builds without a GPU, and the bindings of a release tell what its classes have.
TENSORRT := out/tensorrt
INTO := $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target

tensorrt: install
	@$(INTO) $(TENSORRT)/rtx tensorrt-rtx
	@PYTHONPATH=$(TENSORRT)/rtx $(BIN)/pytest tests/services/infer/engines/tensorrt
	@for release in 10.16 11; do \
	  $(INTO) $(TENSORRT)/$$release --no-deps tensorrt-cu13-bindings==$$release.* \
	    tensorrt-lean-cu13-bindings==$$release.* tensorrt-lean-cu13-libs==$$release.* && \
	  PYTHONPATH=$(TENSORRT)/$$release \
	    $(BIN)/pytest tests/services/infer/engines/tensorrt/test_names.py || exit; done

install: $(VENV)/installed

# Runs again only when what is to be installed has changed.
$(VENV)/installed: pyproject.toml constraints.txt $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Shims and half-installed Pythons answer to these names too, so each one is tried.
$(BIN)/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then echo "creating $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); fi; \
	done; \
	echo "make: no Python 3.11 or later with the venv module is on the PATH;" \
	  "on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1

clean:
	rm -rf $(VENV) out build dist
