#!/usr/bin/env bash
# All methods from scratch on FashionMNIST with 4 and with 40 labels per class, on two CPU cores: 5,000 steps of a small
# Wide ResNet, with what papers on training from scratch have beside the method.
#
#   bash scripts/fashion.sh [METHOD ...] [LABELS ...] [-- EXTRA FLAGS]
#   SEEDS="0 1 2" OMP_NUM_THREADS=1 bash scripts/fashion.sh erm fixmatch oracle 40
#
# LABELS is 40 or 400. cells.sh lists what else can be set: DRY_RUN, SEEDS, DATA, LOGS, JOBS and PYTHON. The runs go seed
# by seed, so that each seed's are a whole table.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"
all_methods="erm fixmatch flexmatch freematch softmatch uda debiasmatch dst self_tuning pseudo_label pi_model mean_teacher
    oracle"
SEEDS=${SEEDS:-"0 1 2"}
DATA=${DATA:-data}
LOGS=${LOGS:-logs/fashion}

common_flags="-d FashionMNIST -a wrn_10_1_half_leaky --scratch --no-bottleneck --train-resizing native
    --val-resizing native --auto-augment classic --lr 0.03 --no-decay-on-norms --ema 0.999 --batch-size 16
    --epochs 25 --iters-per-epoch 200 --workers 0"
cosine="--lr-scheduler cos --trade-off-cls-strong 0"
seven="--labeled-in-unlabeled --unlabeled-batch-size 112" # unlabeled images for each labeled one
one="--labeled-in-unlabeled"

# Nothing was tuned on this data. The settings are those of the table from scratch (TorchSSL's, and USB's for FreeMatch
# and SoftMatch) where it has the method: Pi Model's and Mean Teacher's weights, which are 10 and 50 there, are for sums
# here (over 10 classes; over 10 classes and 16 images). DST's are TLlib's from scratch, and DebiasMatch's and
# Self-Tuning's FixMatch's. The oracle sees as many images as the others.
own_flags() {
    case $1 in
        erm) echo "$cosine" ;;
        oracle) echo "$cosine --oracle --batch-size 128" ;;
        pseudo_label) echo "$cosine $one" ;;
        pi_model) echo "$cosine $one --warm-up-epochs 10 --trade-off-con 1" ;;
        mean_teacher) echo "$cosine $one --warm-up-epochs 10 --trade-off-con 0.3125" ;;
        uda) echo "$cosine $seven --uda-variant paper --T 0.4 --threshold 0.8" ;;
        flexmatch) echo "$cosine $seven --warmup" ;;
        debiasmatch) echo "$cosine $seven --persistent-q-hat" ;;
        dst) echo "$cosine $seven --threshold 0.9 --eta 0.3 --width 128" ;;
        self_tuning) echo "$seven --milestones 15 20" ;; # has no cosine schedule, and strong views alone
        *) echo "$cosine $seven" ;;
    esac
}

methods=
labels=
extra=
while [ $# -gt 0 ]; do
    word=$1
    shift
    case " $all_methods " in *[[:space:]]"$word"[[:space:]]*) methods="$methods $word" && continue ;; esac
    case $word in
        40 | 400) labels="$labels $word" ;;
        --) extra=$(printf ' %q' "$@") && break ;;
        # shellcheck disable=SC2086  # in one line
        *) echo "error: '$word' is none of" $all_methods "40 400 (flags come after --)" >&2 && exit 2 ;;
    esac
done

print_runs() {
    local seed number method flags
    for seed in $SEEDS; do
        for number in ${labels:-40 400}; do
            for method in ${methods:-$all_methods}; do
                [ "$method $number" != "oracle 400" ] || continue # it has all labels
                flags="--num-samples-per-class $((number / 10)) --seed $seed"
                # shellcheck disable=SC2046,SC2086  # the flags are words without spaces
                echo "${method/oracle/erm}.py" "$(printf %q "$DATA/fashion_mnist")" $common_flags $(own_flags "$method") $flags \
                    --log "$(printf %q "$LOGS/${method}_${number}_labels_seed$seed")$extra"
            done
        done
    done
}
commands=$(print_runs)
engine run --collect "$LOGS" <<<"$commands"
