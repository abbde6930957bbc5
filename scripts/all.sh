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
rows=${ROWS:-4 10 oracle}

# print_row METHOD ROWS SEED PRETRAINING
print_row() {
    eval "DRY_RUN=1 ROWS='$2' SEEDS=$3 bash scripts/$1.sh $4 $datasets -- $extra"
}

# Number the lines of every method's row, and sort by number: dataset by dataset through all methods.
print_all() {
    local seed pretraining method row
    for seed in $SEEDS; do
        for pretraining in $pretrainings; do
            for method in $METHODS; do
                if [ "$method" = erm ] && ! is_among 4 "$rows"; then continue; fi
                print_row "$method" 4 "$seed" "$pretraining" | cat -n || exit
            done | sort -s -n -k 1,1 | cut -f 2- || exit
            for row in $rows; do
                [ "$row" = 4 ] || ! is_among erm "$METHODS" || print_row erm "$row" "$seed" "$pretraining" || exit
            done
        done
    done
}

select_cells "$@"
commands=$(print_all)
run_or_print "$commands"
