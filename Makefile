# `make demo` and `make test` are the only commands a fresh machine needs.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
BENCH := sim decode dispatch lift bev memory detect rans governor transport transport_nodes rans

.PHONY: demo test test-all lint bench clean
demo: $(STAMP)
	$(VENV)/bin/bevstack demo

test: $(STAMP)
	$(PY) -m pytest -m "not slow" -n 2 --dist loadfile

test-all: $(STAMP)
	$(PY) -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(STAMP)
	@for name in $(BENCH); do $(PY) benchmarks/$$name.py || exit 1; done

# CPU PyTorch first, so that no other package pulls a CUDA build in; nuscenes-devkit without its outdated pins.
$(STAMP): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q -c constraints.txt torch
	$(VENV)/bin/pip install -q -c constraints.txt -e ".[embedded,view,torch,export,train,eval,test,lint,bench,ros-build]"
	$(VENV)/bin/pip install -q -c constraints.txt --no-deps nuscenes-devkit
	touch $@

clean:
	rm -rf $(VENV) build dist out
