# Every target sets what it needs; nothing is to be exported by hand.
# GOEXPERIMENT=jsonv2: Trivy does not compile without it. One -trimpath setting
# for all builds: another one would compile everything a second time.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export GOEXPERIMENT := jsonv2
export GOFLAGS := -trimpath

SLIPWAY := bin/slipway
SOURCES := $(shell find pipeline -name '*.go' -not -name '*_test.go') pipeline/config/schema.json go.mod go.sum

.PHONY: help
help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: ship
ship: tools $(SLIPWAY) ## run the pipeline on the sample app, to a registry on this machine
	@$(SLIPWAY) ship

.PHONY: test
test: tools $(SLIPWAY) ## run all tests
	go test -timeout 60m ./...
	go -C bench build -o /dev/null .
	go -C .dagger vet ./...
	go -C .dagger test ./...
	go -C e2e test -v -count=1 -timeout 60m ./...
	$(SLIPWAY) test --progress plain

.PHONY: lint
lint: tools $(SLIPWAY) ## lint slipway itself and the sample app
	$(SLIPWAY) lint --config .slipway-self.yaml --progress plain
	$(SLIPWAY) lint --config .slipway-dagger.yaml --progress plain
	$(SLIPWAY) lint --progress plain

.PHONY: bench
bench: tools $(SLIPWAY) ## measure against go build and ko, into docs/bench
	cd bench && go run . --slipway ../$(SLIPWAY) --out ../docs/bench

.PHONY: build
build: $(SLIPWAY) ## build bin/slipway

.PHONY: hooks
hooks: $(SLIPWAY) ## run slipway check before every git push from this clone
	@$(SLIPWAY) init --hooks

.PHONY: tools
tools:
	@./scripts/tools

$(SLIPWAY): $(SOURCES)
	@echo "building $@"
	@mkdir -p $(@D)
	@go build -ldflags "-s -w" -o $@ ./pipeline/cmd/slipway

.PHONY: clean
clean: ## remove what make made here; the user's cache stays
	rm -rf bin .slipway
