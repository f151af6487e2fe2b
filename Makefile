# Everything a newcomer needs: make demo, make test, make bench. The virtual environments are built once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
MEDIAPIPE := .venv-mediapipe
TORCH := .venv-torch
WEB := edge_demo/web

.PHONY: install web demo test chromium parity lint bench clean

install: $(VENV)/.installed web

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,convert,camera,web,test]'
	touch $@

# The browser's part, which ships built: who installs the wheel needs no Node.
web: $(WEB)/dist/classifier.d.ts

# Which is written last.
$(WEB)/dist/classifier.d.ts: $(WEB)/package-lock.json $(wildcard $(WEB)/*.mjs $(WEB)/src/* $(WEB)/page/* $(WEB)/page/*/*)
	@command -v npm >/dev/null || { echo 'needs Node 20 or later (apt-get install nodejs npm)'; exit 1; }
	npm --prefix $(WEB) ci --no-audit --no-fund
	npm --prefix $(WEB) run build

demo: $(VENV)/.installed
	$(BIN)/python demo.py

test: install lint chromium $(MEDIAPIPE)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The tests' browser, of the system. Without it, its tests are skipped; with CI=true they fail.
chromium:
	@if command -v chromium || command -v google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
	else echo 'No Chromium: the browser tests are skipped (apt-get install chromium)'; fi

# The tests' independent client of the exported files, which wants another absl-py than tfmot.
$(MEDIAPIPE)/.installed: constraints.txt
	$(PYTHON) -m venv $(MEDIAPIPE)
	$(MEDIAPIPE)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt mediapipe
	touch $@

# transformers and timm against this package; without them, the test skips itself.
parity: install $(TORCH)/.installed
	$(BIN)/python -m pytest -rA tests/tfvit/test_parity.py

$(TORCH)/.installed: tests/requirements-torch.txt
	$(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements-torch.txt
	touch $@

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	npm --prefix $(WEB) run check

bench: install $(TORCH)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -r bench/requirements.txt
	$(BIN)/python bench/edge_latency.py --json runs/bench.json
	$(BIN)/python bench/qat_step.py
	$(BIN)/python bench/train_step.py
	$(BIN)/python bench/input_pipeline.py --torch $(TORCH)/bin/python
	$(BIN)/python bench/scaling.py
	$(BIN)/python bench/pipeline.py
	npm --prefix bench/web ci --no-audit --no-fund
	$(BIN)/python bench/web_latency.py

clean:
	rm -rf runs build *.egg-info .pytest_cache .ruff_cache
