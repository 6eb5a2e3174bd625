# Every target prepares what it needs: the Python environment, the nft command, resource agents, a control
# plane. All of it is cached outside the tree (${XDG_CACHE_HOME:-~/.cache}/vipkeeper); the first run says what it fetches.

.PHONY: help demo test lint bench faults simulate model lock
.DEFAULT_GOAL := help

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

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

test: lint ## Lint, types, import rules and all tests
	@environment=$$(tests/lab/environment.sh with-nft with-agents) && \
	PYTHONPATH=tests $$environment/bin/python -m lab binaries && \
	exec $$environment/bin/pytest $(PYTEST)

lint: ## Lint, formatting, types and import rules only
	@environment=$$(tests/lab/environment.sh) && \
	echo "ruff check" && $$environment/bin/ruff check && \
	echo "ruff format --check" && $$environment/bin/ruff format --check && \
	echo "mypy" && $$environment/bin/mypy && \
	echo "lint-imports" && $$environment/bin/lint-imports

simulate: ## Seeds of the simulation on all cores (SEEDS=0:2000, MIX=changing,votes, JOBS=2)
	@environment=$$(tests/lab/environment.sh) && \
	PYTHONPATH=controller:node-agent:tests exec $$environment/bin/python -m simulation campaign \
		--seeds $(or $(SEEDS),0:2000) $(if $(MIX),--mix $(MIX)) $(if $(JOBS),--jobs $(JOBS))

lock: ## Choose the newest allowed versions anew and write requirements.lock (needs uv on PATH)
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header pyproject.toml --group dev --output-file requirements.lock
