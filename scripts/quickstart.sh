#!/usr/bin/env bash
# From a fresh clone to a table in minutes: train ERM, FixMatch and the oracle on real handwritten digits, on the CPU.
#
#   bash scripts/quickstart.sh                      one seed
#   SEEDS="0 1 2" bash scripts/quickstart.sh        mean and deviation over three
#
# Extra flags go to every run. Run again, it finds its finished work, and continues what was interrupted.
set -euo pipefail
# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

METHODS=${METHODS:-"erm fixmatch oracle"} SEEDS=${SEEDS:-0} exec bash scripts/digits.sh "$@"
