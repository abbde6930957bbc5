# Sourced by the other files: how runs are selected, printed and run. The work is done by the package cells.
# The published table is that of TLlib, the ancestor; each METHOD.sh holds its rows.
#
#   bash scripts/METHOD.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
#   DRY_RUN=1            print the commands, one a line, and run none
#   SEEDS="0 1 2"        (default: 0) seed N writes into folders of its own, ..._seedN
#   STEPS=10000          a shorter schedule for the runs of the grids (scratch.sh, fashion.sh, finetune.sh,
#                        which_method.sh), in proportion
#   ROWS="4 10 oracle"   (default: all) selects among the rows of erm.sh
#   DATA, LOGS           (default: data, logs) folders of the datasets and of the runs
#   JOBS=4               (default: 1) so many cells at a time, spread over the GPUs of CUDA_VISIBLE_DEVICES, or all GPUs
#   NPROC=4              (default: 1) so many processes for each cell: torchrun in place of Python
#   PYTHON               (default: python)
#
# Paths are relative to the project's folder. A finished cell shows its result and an interrupted one continues: the
# Python scripts see to that. Written for bash 3.2 too, which is macOS's.
# shellcheck shell=bash

case " $* " in
    *" -h "* | *" --help "*)
        sed -n -e '1d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$0"
        exit
        ;;
esac
CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# cells METHOD ARGUMENT...: run, or print, the selected cells of the method. Its table comes on stdin:
#
#   row 4 --num-samples-per-class 4          a row of the published table and its flags (this one is the default)
#   supervised    --lr   --flag=value        what follows is for this pretraining: the flag of each column, and then
#   CIFAR10       0.01                       the values; a flag with a value is the same for all
#
# Several values of one flag are joined by commas; @METHOD is the folder of another method's run of the same cell.
cells() {
    local table
    table="method $1"$'\n'$(cat)
    shift
    if [ -n "${PRINT_TABLE:-}" ]; then  # for all.sh
        echo "$table"
        exit
    fi
    if [ -n "${METHODS:-}" ]; then
        echo "error: METHODS is for all.sh: this file has one method" >&2
        exit 2
    fi
    engine table "$@" <<<"$table"
}

# grid ARGUMENT...: run, or print, the selected cells of all methods. The grid comes on stdin:
#
#   schedule 5000 25                        the steps of a run, and its epochs; STEPS=1000 sets others
#   methods erm fixmatch oracle             in this order; oracle is erm with all labels
#   dataset CIFAR10 cifar10 10 40 250       its folder in DATA, its classes, its numbers of labels
#   all CIFAR10 -d CIFAR10 --wd 0.0005      methods, datasets, and flags that they have: names joined by commas, or all;
#                                           a number with % is that share of the epochs, with %+ at least one;
#                                           @METHOD is the folder of another method's run of the same cell
#   erm CIFAR10:40 --lr 0.1                 of that dataset with that number of labels alone
grid() {
    engine grid "$@"
}

# weights_and_images: what WEIGHTS and JPEG choose, for the grids that fine-tune on a CPU. Sets `weights` (flags), and
# `cifar10` and `reader`, the folder and the dataset of CIFAR-10's images.
weights_and_images() {
    case ${WEIGHTS:-} in
        *[[:space:]]*)
            echo "error: WEIGHTS takes a path without spaces, not '$WEIGHTS'" >&2
            exit 2
            ;;
    esac
    weights=${WEIGHTS:+--pretrained-backbone $WEIGHTS}
    cifar10=cifar10 reader=CIFAR10
    if [ "${JPEG:-0}" != 0 ]; then
        cifar10=cifar10_jpeg reader=ImageFolder
    fi
}

# engine ARGUMENT...: become the Python program, so that signals reach it. PYTHON may be anything that runs the scripts.
engine() {
    local python
    for python in python3 python "${PYTHON:-python}"; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            exec "$python" -m scripts.cells "$@"
        fi
    done
    echo "error: Python 3.11 or later is needed: activate its environment, or set PYTHON" >&2
    exit 2
}
