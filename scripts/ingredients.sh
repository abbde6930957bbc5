#!/usr/bin/env bash
# Which ingredients of training from scratch matter? The protocol of fashion.sh with 40 labels, at the papers' rate of
# 0.03 (fashion.sh tunes it), for two methods on five seeds. It is run with all ingredients (all), without one of them
# (no_ema), with one alone (only_ema), and without any (none). METHODS may also name uda, debiasmatch, freematch and
# softmatch.
#
#   bash scripts/ingredients.sh [EXTRA FLAGS]
#   METHODS=fixmatch SEEDS="0 1" OMP_NUM_THREADS=1 bash scripts/ingredients.sh
#
# LOGS/METHOD/NAME/seedN is the folder of a run. compare_runs.py compares one NAME with others, seed by seed. The runs
# go seed by seed. They have half of the steps of fashion.sh. cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"
METHODS=${METHODS:-"fixmatch flexmatch"}
SEEDS=${SEEDS:-"0 1 2 3 4"}
DATA=${DATA:-data}
LOGS=${LOGS:-logs/ingredients}

ingredients="ema unlabeled joint labeled cutout norms strong"
common_flags="-d FashionMNIST -a wrn_10_1_half --scratch --no-bottleneck --workers 0 --train-resizing native
    --val-resizing native --auto-augment classic --batch-size 8 --lr 0.03 --lr-scheduler cos --epochs 5
    --iters-per-epoch 200 --num-samples-per-class 4"

# as in fashion.sh
own_flags() {
    case $1 in
        flexmatch) echo "--warmup" ;;
        uda) echo "--uda-variant paper --T 0.4 --threshold 0.8" ;;
        debiasmatch) echo "--persistent-q-hat --momentum 0.99" ;;
        freematch | softmatch) echo "--momentum 0.99" ;;
    esac
}

# with INGREDIENT, without INGREDIENT: its flags where it is there, and where it is not
with() {
    case $1 in
        ema) echo "--ema 0.99" ;;                      # the average of the weights is tested
        unlabeled) echo "--unlabeled-batch-size 56" ;; # 7 times as many as labeled ones
        joint) echo "--joint-passes" ;;                # all views are one batch for BatchNorm
        labeled) echo "--labeled-in-unlabeled" ;;      # labeled images are unlabeled ones, too
        cutout) echo "--cutout 0.5" ;;                 # after the operations
        norms) echo "--no-decay-on-norms" ;;           # nor on biases
        strong) echo "--trade-off-cls-strong 0" ;;     # no labeled loss of strong views
    esac
}

without() {
    case $1 in
        unlabeled) echo "--unlabeled-batch-size 8" ;;
        cutout) echo "--cutout 0" ;;
        strong) echo "--trade-off-cls-strong 0.1" ;;
    esac
}

# flags NAME: of all ingredients
flags() {
    local ingredient
    for ingredient in $ingredients; do
        case $1 in
            all | "only_$ingredient") with "$ingredient" ;;
            none | only_* | "no_$ingredient") without "$ingredient" ;;
            *) with "$ingredient" ;;
        esac
    done
}

for method in $METHODS; do
    case $method in
        fixmatch | flexmatch | uda | debiasmatch | freematch | softmatch) ;;
        *) echo "error: METHODS takes fixmatch flexmatch uda debiasmatch freematch softmatch, not '$method'" >&2 && exit 2 ;;
    esac
done
names="all none"
for ingredient in $ingredients; do
    names="$names no_$ingredient only_$ingredient"
done
extra=
[ $# -eq 0 ] || extra=$(printf ' %q' "$@")
commands=$(
    for seed in $SEEDS; do
        for method in $METHODS; do
            for name in $names; do
                # shellcheck disable=SC2046,SC2086  # the flags are words without spaces
                echo "$method.py" "$(printf %q "$DATA/fashion_mnist")" $common_flags $(own_flags "$method") \
                    $(flags "$name") --seed "$seed" --log "$(printf %q "$LOGS/$method/$name/seed$seed")$extra"
            done
        done
    done
)
engine run <<<"$commands"
