# Every target prepares what it needs: the Python environment, the nft command, resource agents, promtool,
# a control plane. All of it is cached outside the tree (${XDG_CACHE_HOME:-~/.cache}/vipkeeper); the first run says what it fetches.

.PHONY: help demo test lint bench faults simulate model docs images lock e2e manifests
.DEFAULT_GOAL := help

help: ## List the targets
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: ## Eight faults on three real nodes, with what each cost a client (KEEP=1 leaves it running)
	@environment=$$(tests/lab/environment.sh with-nft) && \
	PYTHONPATH=tests exec $$environment/bin/python -m lab demo $(if $(KEEP),--keep)

bench: ## How long failovers take, over many runs, and what the processes cost (RUNS=40 runs of each)
	@environment=$$(tests/lab/environment.sh with-nft) && \
	PYTHONPATH=tests exec $$environment/bin/python -m lab bench $(if $(RUNS),--runs $(RUNS))

faults: ## Every fault to a service that follows its address, on a busy machine (TIMES=4 each, BUSY=2 processes)
	@environment=$$(tests/lab/environment.sh with-nft) && \
	PYTHONPATH=tests exec $$environment/bin/python -m lab faults \
		$(if $(TIMES),--times $(TIMES)) $(if $(BUSY),--busy $(BUSY))

model: ## Every state of the protocol within bounds, and each rule broken: minutes (`make test` has a short form)
	@environment=$$(tests/lab/environment.sh) && \
	PYTHONPATH=tests exec $$environment/bin/python -m model

test: lint ## Lint, types, import rules and all tests (PYTEST='tests/api -k name': those only)
	@environment=$$(tests/lab/environment.sh with-nft with-agents) && \
	PYTHONPATH=tests $$environment/bin/python -m lab binaries && \
	PYTHONPATH=tests $$environment/bin/python -m gotools > /dev/null && \
	PYTHONPATH=tests $$environment/bin/python -m monitoring.promtool > /dev/null && \
	$(if $(PYTEST),exec $$environment/bin/pytest $(PYTEST),PYTHONPATH=tests exec $$environment/bin/python -m suites)

e2e: images ## vipkeeper, installed by its chart, on a real Kubernetes with kubelets: faults, upgrades, the end (PYTEST=-k ...)
	@environment=$$(tests/lab/environment.sh with-nft with-kubelets) && \
	PYTHONPATH=tests $$environment/bin/python -m e2e && \
	exec $$environment/bin/pytest tests/e2e $(PYTEST)

lint: ## Lint, formatting, types, import rules and the chart's static checks only
	@environment=$$(tests/lab/environment.sh) && \
	echo "ruff check" && $$environment/bin/ruff check && \
	echo "ruff format --check" && $$environment/bin/ruff format --check && \
	echo "mypy" && $$environment/bin/mypy && \
	echo "lint-imports" && $$environment/bin/lint-imports && \
	echo "hadolint" && $$environment/bin/hadolint controller/Containerfile node-agent/Containerfile && \
	echo "chart" && PYTHONPATH=tests $$environment/bin/python -m chart.lint

simulate: ## Seeds of the simulation on all cores (SEEDS=0:2000, MIX=changing,votes, JOBS=2)
	@environment=$$(tests/lab/environment.sh) && \
	PYTHONPATH=controller:node-agent:tests exec $$environment/bin/python -m simulation campaign \
		--seeds $(or $(SEEDS),0:2000) $(if $(MIX),--mix $(MIX)) $(if $(JOBS),--jobs $(JOBS))

manifests: ## Write what is made from crds/ and the chart anew (the chart's copies, charts/kustomize)
	@environment=$$(tests/lab/environment.sh) && \
	PYTHONPATH=tests exec $$environment/bin/python -m chart.manifests

docs: ## Write the generated pages of docs/reference anew
	@environment=$$(tests/lab/environment.sh) && \
	PYTHONPATH=controller:node-agent:tests $$environment/bin/python -m docs && \
	PYTHONPATH=controller:node-agent:tests exec $$environment/bin/python -m monitoring.page

images: ## Both images as OCI archives in the cache, checked, without a registry (VERSION=… stamps another version)
	@environment=$$(tests/lab/environment.sh with-buildah) && \
	PYTHONPATH=tests exec $$environment/bin/python -m images build $(if $(VERSION),--version $(VERSION))

UV_COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock: ## Choose the newest allowed versions anew and write all locks (needs uv on PATH)
	$(UV_COMPILE) --upgrade pyproject.toml --all-extras --group dev --output-file requirements.lock
	$(UV_COMPILE) --constraint requirements.lock --upgrade pyproject.toml --extra controller \
		--output-file controller/requirements.lock
	$(UV_COMPILE) --constraint requirements.lock --upgrade pyproject.toml --extra node-agent \
		--output-file node-agent/requirements.lock
	echo hatchling | $(UV_COMPILE) --constraint requirements.lock --upgrade - --output-file tests/images/build.lock
