#!/usr/bin/env bash
# Foundation models: CLIP and DINOv2 ViT-B with LoRA or AdaptFormer, 3 and 6 labels per class, on two datasets of the
# table of arXiv:2503.09707. docs/foundation.md says what is as there, and what is not.
#
#   bash scripts/foundation.sh [clip|dinov2] [lora|adapter] [DTD|SUN397] [METHOD ...] [-- EXTRA FLAGS]
#   ROWS=3 SEEDS="0 1 2" bash scripts/foundation.sh clip lora DTD erm fixmatch
#
# METHOD is erm (labels alone), fixmatch, flexmatch, softmatch, or a vote of erm's runs: st (the cell's own), pet (both
# adapters of its network), v_pet (both adapters of both networks). A vote needs those runs: without arguments they come
# before it. ROWS (default: "3 6") are labels per class; cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"
all_methods="erm fixmatch flexmatch softmatch st pet v_pet"
SEEDS=${SEEDS:-0}
ROWS=${ROWS:-"3 6"}
DATA=${DATA:-data}
LOGS=${LOGS:-logs/foundation}

# The paper's: AdamW, its weight decay, rank 4 and width 16, a linear head, 224 pixels, ImageNet's statistics for both
# networks, labeled images among the unlabeled and without a strong view, RandAugment of 3 operations with Cutout.
common_flags="--image-size 224 --norm-mean 0.485 0.456 0.406 --norm-std 0.229 0.224 0.225 --no-bottleneck --optimizer adamw
    --lr 0.0001 --lr-scheduler cos --auto-augment classic --trade-off-cls-strong 0"

network() {
    case $1 in
        clip) echo "-a vit_base_patch16_clip_224.openai" ;;
        dinov2) echo "-a vit_base_patch14_reg4_dinov2.lvd142m" ;;
    esac
}

adapter() {
    case $1 in
        lora) echo "--lora 4" ;;
        adapter) echo "--adapter 16" ;;
    esac
}

# length METHOD DATASET LABELS: the steps of the paper's code, 50 passes over the labeled images in batches of 16, or 30
# over the unlabeled ones in batches of 32, with a warm-up of 2.5 % of them.
length() {
    case $1-$2-$3 in
        erm-DTD-3) echo "-b 16 --epochs 10 -i 45 --lr-warm-up-steps 11" ;;
        erm-DTD-6) echo "-b 16 --epochs 10 -i 90 --lr-warm-up-steps 22" ;;
        erm-SUN397-3) echo "-b 16 --epochs 10 -i 375 --lr-warm-up-steps 94" ;;
        erm-SUN397-6) echo "-b 16 --epochs 10 -i 745 --lr-warm-up-steps 186" ;;
        *-DTD-*) echo "--labeled-in-unlabeled --epochs 30 -i 114 --lr-warm-up-steps 86" ;;
        *-SUN397-*) echo "--labeled-in-unlabeled --epochs 30 -i 2682 --lr-warm-up-steps 2012" ;;
    esac
}

# place NETWORK ADAPTER METHOD DATASET LABELS SEED: the folder of a run, as a word of the shell.
place() {
    printf %q "$LOGS/$1_$2/$3/$(echo "$4" | tr '[:upper:]' '[:lower:]')_$5_labels_per_class$([ "$6" = 0 ] || echo "_seed$6")"
}

own_flags() {
    local network adapter networks=$1 adapters=$2
    case $3 in
        fixmatch) echo "--threshold 0.95" ;;
        flexmatch) echo "--threshold 0.95 --warmup" ;;
        st | pet | v_pet)
            [ "$3" = st ] || adapters="lora adapter"
            [ "$3" != v_pet ] || networks="clip dinov2"
            echo "--sources"
            for network in $networks; do
                for adapter in $adapters; do
                    place "$network" "$adapter" erm "$4" "$5" "$6"
                    echo
                done
            done
            ;;
    esac
}

if [ -n "${METHODS:-}" ]; then
    echo "error: METHODS is for other files: name the methods as words here" >&2
    exit 2
fi

networks=
adapters=
datasets=
methods=
extra=
while [ $# -gt 0 ]; do
    word=$1
    shift
    case $word in
        clip | dinov2) networks="$networks $word" ;;
        lora | adapter) adapters="$adapters $word" ;;
        DTD | SUN397) datasets="$datasets $word" ;;
        erm | fixmatch | flexmatch | softmatch | st | pet | v_pet) methods="$methods $word" ;;
        --)
            [ $# -eq 0 ] || extra=$(printf ' %q' "$@")
            break
            ;;
        # shellcheck disable=SC2086  # in one line
        *) echo "error: '$word' is none of clip dinov2 lora adapter DTD SUN397" $all_methods "(flags come after --)" >&2 && exit 2 ;;
    esac
done
for row in $ROWS; do
    case $row in
        3 | 6) ;;
        *) echo "error: ROWS takes 3 and 6, not '$row'" >&2 && exit 2 ;;
    esac
done

print_runs() {
    local seed dataset row method network adapter
    for seed in $SEEDS; do
        for dataset in ${datasets:-DTD SUN397}; do
            for row in $ROWS; do
                for method in ${methods:-$all_methods}; do
                    for network in ${networks:-clip dinov2}; do
                        for adapter in ${adapters:-lora adapter}; do
                            print_run "$network" "$adapter" "$method" "$dataset" "$row" "$seed"
                        done
                    done
                done
            done
        done
    done
}

print_run() {
    local script=$3
    case $3 in st | pet) script=v_pet ;; esac
    # shellcheck disable=SC2046,SC2086  # the flags are words without spaces
    echo "$script.py" "$(printf %q "$DATA/$(echo "$4" | tr '[:upper:]' '[:lower:]')")" -d "$4" --num-samples-per-class "$5" \
        $(network "$1") $(adapter "$2") $common_flags $(length "$3" "$4" "$5") $(own_flags "$@") --seed "$6" \
        --log "$(place "$1" "$2" "$3" "$4" "$5" "$6")$extra"
}

commands=$(print_runs)
engine run --collect "$LOGS" <<<"$commands"
