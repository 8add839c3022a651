# `make demo` and `make test` are all that a newcomer needs. The environment is .venv, made from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
COSTS := build/costs.jsonl
OPTIONS = $(if $(SLOW),--slow) --costs $(COSTS)
WORKERS = auto
TESTS = $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile $(OPTIONS)
FAST := $(patsubst %,tests/contract/test_%.py,architecture connection image_build kubernetes requirements unsafe_loading verdicts versions)
EXTRAS := recipe,gs,az,operator,docs,dev
INSTALLED := .venv/.installed
CHECKS = test

.PHONY: images wheel sbom release release-rehearsal scan docs check-docs sizes demo check test tiers test-all test-cluster test-gpu first-hour lint check-words format generate check-generated constraints clean-demo
.DEFAULT_GOAL := demo

demo: $(INSTALLED) ## the whole recipe on real images; a second call finds every stage cached
	@$(BIN)/diht run examples/demo.yaml

check: $(INSTALLED) ## before a commit, in three minutes: `make lint`, generated files, unit tests, the fast ones of contract
	@mkdir -p build; rm -f $(COSTS); $(MAKE) -s lint check-generated >build/lint.log 2>&1 & lint=$$!; trap "kill $$lint" INT TERM; \
	$(TESTS) tests/unit $(FAST); tests=$$?; wait $$lint; lint=$$?; [ $$lint = 0 ] || cat build/lint.log; exit $$((tests | lint))

test: check tiers ## every tier, on two cores in twenty minutes; says which tier this machine cannot run and why

# Tests of these tiers wait a third of their time.
tiers: WORKERS = $$(($$(nproc) + 1))
tiers: $(INSTALLED) ## `make test` without `make check`
	@mkdir -p build; TEST_CLUSTER_PATIENCE=$${TEST_CLUSTER_PATIENCE:-3} tests/cluster/check $(OPTIONS) >build/cluster-tests.log 2>&1 & cluster=$$!; trap "kill $$cluster" INT TERM; \
	$(TESTS) tests/recipe tests/s3 tests/contract tests/fuzz tests/mutation tests/browser tests/gpu $(addprefix --ignore=,$(FAST)); rest=$$?; \
	echo "the cluster's tests, which wait more than they work, ran beside these (build/cluster-tests.log):"; \
	tail -n +1 --pid=$$cluster -f build/cluster-tests.log; wait $$cluster; cluster=$$?; $(BIN)/python -m tests.costs $(COSTS); exit $$((rest | cluster))

test-all: ## `make test` with every seed, every moment of a kill, every store: hours; what an issue needs before it is closed
	@$(MAKE) test SLOW=1

test-cluster: $(INSTALLED) ## the tier on a real Kubernetes: KUBECONFIG's, or two nodes on this machine
	@tests/cluster/check $(if $(SLOW),--slow)

test-gpu: $(INSTALLED) ## the tier on this machine's GPUs; DIHT_GPU_TESTS_ON=cpu runs its scenarios without one
	@$(BIN)/python -m pytest -q tests/gpu

first-hour: $(INSTALLED) ## on a machine with cards: the tier, our side of the benchmark, one archive to send back (docs/gpu.md)
	@$(BIN)/python -m tests.gpu.first_hour $(if $(AGAIN),--again)

lint: $(INSTALLED) ## style, types, layers, words and class names
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tools/check_words.py
	$(BIN)/python tools/check_house.py
	$(BIN)/python -m tools.check_docs

check-words: $(INSTALLED) ## home-made words, module names, imports between tests
	$(BIN)/python tools/check_words.py

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(INSTALLED) ## CRD, API reference and JSON schema from the models; the lists of model names and of Kubernetes' types from packages
	$(BIN)/python -m diht_k8s.api.schema.generate
	$(BIN)/python -m tools.model_names
	$(BIN)/python -m tools.kubernetes_types

check-generated: $(INSTALLED)
	$(BIN)/python -m diht_k8s.api.schema.generate --check
	$(BIN)/python -m tools.model_names --check
	$(BIN)/python -m tools.kubernetes_types --check

constraints: ## pins what pyproject.toml needs, with and without hashes; keeps today's versions: delete a line to update it, UPDATE=1 updates all (needs uv)
	@UPDATE="$(UPDATE)" tools/constraints

sizes: $(INSTALLED) ## how much disk each extra takes, beside what docs/packages.md says
	@$(BIN)/python tools/extra_sizes.py
	@$(BIN)/python tools/extra_sizes.py --check

docs: $(INSTALLED) ## the documentation site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html; to search, too: $(BIN)/python -m http.server --directory build/site"

check-docs: $(INSTALLED) ## commands, YAML, links and sentences of the documentation
	$(BIN)/python -m tools.check_docs
	$(BIN)/python tools/figures.py --check
	$(BIN)/python -m tools.recorded_run --check

images: ## both images, by buildah, podman or docker: make images IMAGE_PREFIX=registry.example.org/; PUSH=1 pushes them
	@IMAGE_PREFIX="$(IMAGE_PREFIX)" BASE="$(BASE)" images/build $(or $(IMAGES),operator recipe)

wheel: ## the package as a wheel in dist/; two builds of one commit are the same
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 315532800) $(PYTHON) -m pip wheel -q --no-deps --wheel-dir dist .

sbom: ## bills of materials (CycloneDX) of the wheel and the images' Python packages, in dist/
	@PYTHON="$(PYTHON)" tools/sbom dist

release: $(INSTALLED) ## publishes the tagged commit: make release TAG=v0.1.0 REGISTRY=registry.example.org/team KEY=env://COSIGN_PRIVATE_KEY
	@$(BIN)/python -u -m tools.release --tag "$(TAG)" --registry "$(REGISTRY)" --key "$(KEY)" --checks $(CHECKS)

scan: $(INSTALLED) ## known vulnerabilities of the packages in the bills of materials of the last release or rehearsal (asks the scanner's server)
	@scanner=$$($(BIN)/python -m tools.release.programs grype) || exit; \
	for bill in build/release/dist/*.cdx.json; do echo "$$bill"; "$$scanner" --fail-on high "sbom:$$bill" || found=1; done; [ -z "$$found" ]

release-rehearsal: $(INSTALLED) ## a release to a registry on the loopback: test, build, push, sign, verify as a user does (needs Go); log in build/release.log
	@mkdir -p build; bash -o pipefail -c '$(BIN)/python -u -m tools.release --dry-run --images $(or $(IMAGES),operator recipe) --checks $(CHECKS) 2>&1 | tee build/release.log'

clean-demo: ## forget the demo's run
	rm -rf runs/demo

$(INSTALLED): pyproject.toml constraints.txt requirements/dev.txt
	@echo "installing into .venv: once, 7 GB of packages, 3.6 of them CUDA (docs/packages.md); 5 to 10 minutes, the last ones without a line ..."
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] >= (3, 11) else "diht-k8s needs Python 3.11 or newer: make PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@
