#!/usr/bin/env bash
# Every cell of the published table, in an order that shows something early: with supervised pretraining, one dataset
# after the other with all methods; then the rows of 10 labels per class and of the oracle; then the same with MoCo.
#
#   bash scripts/all.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#   JOBS=8 bash scripts/all.sh                 eight cells at a time, on eight GPUs
#   METHODS="freematch softmatch" bash scripts/all.sh    other methods than those of the table
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"
METHODS=${METHODS:-"erm pseudo_label pi_model mean_teacher uda fixmatch self_tuning flexmatch debiasmatch dst"}

for method in $METHODS; do
    if ! grep -qs "^cells $method " "scripts/$method.sh"; then
        echo "error: METHODS takes methods whose shell file has cells of the table, not '$method'" >&2
        exit 2
    fi
done
tables=$(for method in $METHODS; do PRINT_TABLE=1 bash "scripts/$method.sh" || exit; done)
engine table "$@" <<<"$tables"
