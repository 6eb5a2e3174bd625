# Every target prepares what it needs: the Python environment, the nft command, resource agents, promtool,
# a control plane. All of it is cached outside the tree (${XDG_CACHE_HOME:-~/.cache}/vipkeeper); the first run says what it fetches.

.PHONY: help demo test lint bench comparison scale faults endurance fuzz simulate model docs images lock e2e kernels manifests
.DEFAULT_GOAL := help

help: ## List the targets
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: ## Eight faults on three real nodes, with what each cost a client (KEEP=1 leaves it running)
	@environment=$$(tests/lab/environment.sh with-nft) && \
	PYTHONPATH=tests exec $$environment/bin/python -m lab demo $(if $(KEEP),--keep)

bench: ## How long failovers take, beside keepalived (RUNS=40, ONLY='power', PART=comparison, PEERS=Fast, LOAD=cpu, RECORD=FILE)
	@environment=$$(tests/lab/environment.sh with-nft with-keepalived) && \
	PYTHONPATH=tests exec $$environment/bin/python -m lab bench \
		$(if $(RUNS),--runs $(RUNS)) $(if $(ONLY),--only '$(ONLY)') $(if $(PART),--part $(PART)) \
		$(if $(PEERS),--peers '$(PEERS)') $(if $(LOAD),--load $(LOAD)) $(if $(RECORD),--record '$(RECORD)')

comparison: ## The tables, the picture and the page's part of what `make bench RECORD=FILE` wrote (RECORD=FILE)
	@environment=$$(tests/lab/environment.sh) && \
	PYTHONPATH=tests exec $$environment/bin/python -m lab compare '$(or $(RECORD),$(error RECORD=FILE says where the figures are))'

scale: ## 1,000 VirtualIPs and 100 agents, 200 addresses on a node that dies, starts (ONLY='power', ONLY='named 500', RUNS=10)
	@environment=$$(tests/lab/environment.sh with-nft) && \
	PYTHONPATH=tests exec $$environment/bin/python -m lab scale $(if $(ONLY),--only '$(ONLY)') $(if $(RUNS),--runs $(RUNS))

faults: ## Every fault, to addresses and to services (KIND=addresses, TIMES=4, PAIRS=20, SEED=1, FAULT=one or one+other)
	@environment=$$(tests/lab/environment.sh with-nft) && \
	PYTHONPATH=tests exec $$environment/bin/python -m lab faults \
		$(if $(KIND),--kind $(KIND)) $(if $(FAULT),--fault $(FAULT)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(TIMES),--times $(TIMES),$(if $(FAULT),--times 1)) $(if $(PAIRS),--pairs $(PAIRS)) \
		$(if $(SEED),--seed $(SEED)) $(if $(LOAD),--load $(LOAD)) $(if $(BUSY),--busy $(BUSY)) \
		$(if $(MINUTES),--minutes $(MINUTES))

endurance: ## 5,000 real take-overs and what has grown since (TAKEOVERS=1500), or a soak of SOAK=70 minutes at 1 % loss
	@environment=$$(tests/lab/environment.sh with-nft) && \
	PYTHONPATH=tests exec $$environment/bin/python -m lab endurance \
		$(if $(TAKEOVERS),--take-overs $(TAKEOVERS)) $(if $(SOAK),--soak $(SOAK))

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

kernels: ## The fence and the node on VLANs, bonds and in VRFs, on Debian's kernel in QEMU, minutes (PYTEST='tests/agent/test_fence.py')
	@environment=$$(tests/lab/environment.sh with-nft with-qemu) && \
	PYTHONPATH=controller:node-agent:tests exec $$environment/bin/python -m kernels $(PYTEST)

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

fuzz: ## Every byte from outside, guided by coverage (TARGET=plan: that alone, MINUTES=1 for each, INPUT=FILE: once more)
	@environment=$$(tests/lab/environment.sh) && \
	PYTHONPATH=controller:node-agent:tests exec $$environment/bin/python -m fuzz $(TARGET) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(INPUT),--input $(INPUT))

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
	$(UV_COMPILE) --constraint requirements.lock --upgrade --group fuzz --output-file tests/fuzz/engine.lock
	echo hatchling | $(UV_COMPILE) --constraint requirements.lock --upgrade - --output-file tests/images/build.lock
