#!/usr/bin/env bash
# What two parts of fine-tuning are worth: a tenth of the rate for the backbone (--finetune), and the bottleneck. The
# setting is that of finetune.sh on FashionMNIST with 40 labels, on five seeds. It is run in three ways: as it is
# (both), with the full rate for the backbone (no_finetune), and with a head that is linear in the backbone's features
# (no_bottleneck).
#
#   bash scripts/finetune_parts.sh [EXTRA FLAGS]
#   METHODS=fixmatch SEEDS="0 1" OMP_NUM_THREADS=1 bash scripts/finetune_parts.sh
#
#   WEIGHTS=FILE   as for finetune.sh
#
# LOGS/METHOD/NAME/seedN is the folder of a run. compare_runs.py compares one NAME with others, seed by seed. The runs
# go seed by seed, and test once, at the end. cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"
METHODS=${METHODS:-"erm fixmatch"}
SEEDS=${SEEDS:-"0 1 2 3 4"}
DATA=${DATA:-data}
LOGS=${LOGS:-logs/finetune_parts}

common_flags="-d FashionMNIST -a tf_efficientnet_lite0 --image-size 64 --workers 0 --train-resizing cifar
    --val-resizing cifar --norm-mean 0.498 0.498 0.498 --norm-std 0.502 0.502 0.502 --epochs 1 --iters-per-epoch 300
    --num-samples-per-class 4"

own_flags() {
    case $1 in
        erm) echo "--lr 0.03" ;;
        fixmatch) echo "--lr 0.003 --threshold 0.7" ;;
    esac
}

flags() {
    case $1 in
        both) echo "--finetune" ;;
        no_finetune) ;;
        no_bottleneck) echo "--finetune --no-bottleneck" ;;
    esac
}

for method in $METHODS; do
    case $method in
        erm | fixmatch) ;;
        *) echo "error: METHODS takes erm fixmatch, not '$method'" >&2 && exit 2 ;;
    esac
done
weights=${WEIGHTS:+--pretrained-backbone $(printf %q "$WEIGHTS")}
extra=
[ $# -eq 0 ] || extra=$(printf ' %q' "$@")
commands=$(
    for seed in $SEEDS; do
        for method in $METHODS; do
            for name in both no_finetune no_bottleneck; do
                # shellcheck disable=SC2046,SC2086  # the flags are words without spaces
                echo "$method.py" "$(printf %q "$DATA/fashion_mnist")" $common_flags $weights $(own_flags "$method") \
                    $(flags "$name") --seed "$seed" --log "$(printf %q "$LOGS/$method/$name/seed$seed")$extra"
            done
        done
    done
)
engine run <<<"$commands"
