# One word for each thing a person does here. Everything lands in .venv and needs only Python ≥ 3.11 and a package index.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
EXTRAS := ingest,s3,flows,train,fast,wandb

.PHONY: install demo demo-full test check bench docs clean openclip constraints test-long

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(UV) -e '.[$(EXTRAS)]' --constraints constraints.txt --group dev
	touch $@

# Everything that a person does with this project, on made-up videos: no network, five minutes.
demo: install
	$(BIN)/python -m flows.demo

# From nothing to every table of a paper, at toy scale: no network, a quarter of an hour at most on two cores.
demo-full: install
	$(BIN)/trichord reproduce audioclip --scale toy --out demo/reproduce

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check openclip
	$(BIN)/python -m pytest -n auto --dist loadfile -m 'not long'

# What takes many minutes by itself: every table at toy scale, from nothing.
test-long: install
	$(BIN)/python -m pytest -m long

# Nothing is built: the pages are Markdown, and what they show is run.
docs: install
	$(BIN)/python -m pytest tests/end_to_end/test_docs_commands.py

# Ratios, each beside the bar that it is held to.
bench: install
	for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

# open_clip's own loader wants an older webdataset than ours: an environment of its own, about 5 GB with torch.
openclip: .venv-openclip/.installed

.venv-openclip/.installed: | .venv/.installed
	test -x .venv-openclip/bin/python || $(PYTHON) -m venv .venv-openclip
	$(BIN)/uv pip install --quiet --python .venv-openclip/bin/python \
		'open_clip_torch>=3.3,<4' 'torch>=2.14,<2.15' 'torchvision>=0.29,<0.30' 'webdataset<=0.2.86' pandas
	touch $@

clean:
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache demo

# Refresh the versions that are tested together; no host and no hash, so that any index serves them.
constraints: install
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
		--no-header --no-annotate --quiet --upgrade --output-file constraints.txt.partial
	printf '# Versions that were tested together; refreshed on purpose by `make constraints`.\n' > constraints.txt
	cat constraints.txt.partial >> constraints.txt
	rm constraints.txt.partial
