# Every target sets what it needs, so nothing has to be exported.
# GOEXPERIMENT=jsonv2: Trivy does not compile without it.
# GOFLAGS=-trimpath: the same for all builds, because builds with and without it do
# not share compiled packages.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export GOEXPERIMENT := jsonv2
export GOFLAGS := -trimpath

SLIPWAY := bin/slipway
SOURCES := $(shell find pipeline -name '*.go' -not -name '*_test.go') $(shell find charts/charts.go charts/service -type f) pipeline/config/schema.json go.mod go.sum

.PHONY: help
help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: ship
ship: tools $(SLIPWAY) ## run the pipeline on the sample app, to pods on a cluster of this machine
	@./scripts/ship

.PHONY: down
down: bin/devcluster ## remove the cluster of make ship
	@bin/devcluster down

.PHONY: test
test: lint ## lint every module and run all tests
	go test -timeout 60m ./...
	./scripts/with-cluster $(MAKE) test-on-cluster
	CGO_ENABLED=0 go -C devcluster test -count=1 -timeout 20m . ./pause
	go -C charts/test test -count=1 ./...
	go -C bench test ./...
	go -C bench build -o /dev/null .
	go -C .dagger vet ./...
	go -C .dagger test ./...
	$(SLIPWAY) test --progress plain

.PHONY: test-short
test-short: tools $(SLIPWAY) ## run the tests that need no cluster and no heavy builds
	go test -short ./...
	go -C charts/test test ./...
	go -C .dagger test ./...
	$(SLIPWAY) test --progress plain

# scripts/with-cluster runs this. Without a cluster the tests skip. One package
# at a time: the tests are about a node, not about an overloaded node. Four tests at a
# time, because they mostly wait.
.PHONY: test-on-cluster
test-on-cluster:
	go test -p 1 -parallel 4 -count=1 -timeout 60m ./pipeline/deploy/...
	go test -count=1 -timeout 60m -run TestDeploy ./pipeline/command
	go -C e2e test -v -count=1 -timeout 60m ./...

# Every module of this repository, with the one configuration .golangci.yml.
MODULES := .dagger bench charts/test devcluster e2e sample-app

.PHONY: lint
lint: tools $(SLIPWAY) ## lint every module of this repository
	$(SLIPWAY) lint --config .slipway-self.yaml --progress plain
	for module in $(MODULES); do $(SLIPWAY) lint --config .slipway-lint.yaml --dir $$module --progress plain; done

.PHONY: bench
bench: tools $(SLIPWAY) ## measure against go build and ko, into docs/bench
	cd bench && go run . --slipway ../$(SLIPWAY) --out ../docs/bench

.PHONY: soak
soak: tools $(SLIPWAY) ## kill, cut and compare deployments on a real cluster, for an hour or two
	SLIPWAY_TEST_SOAK=50 SLIPWAY_TEST_REPORT=$(CURDIR)/docs/bench/deploy ./scripts/with-cluster \
		go test -v -count=1 -timeout 4h -run 'Killed|Cut|Lost|Helm|Returns|Role|Autoscaling' ./pipeline/deploy/cluster

.PHONY: build
build: $(SLIPWAY) ## build bin/slipway

.PHONY: hooks
hooks: $(SLIPWAY) ## run slipway check before every git push from this clone
	@$(SLIPWAY) init --hooks

.PHONY: tools
tools:
	@./scripts/tools

bin/devcluster: $(shell find devcluster -name '*.go' -not -name '*_test.go') devcluster/go.mod devcluster/go.sum
	@mkdir -p $(@D)
	@go -C devcluster build -o ../$@ .

$(SLIPWAY): $(SOURCES)
	@echo "building $@"
	@mkdir -p $(@D)
	@go build -ldflags "-s -w" -o $@ ./pipeline/cmd/slipway

.PHONY: clean
clean: ## remove what make has built here, but not the user's cache
	rm -rf bin .slipway
