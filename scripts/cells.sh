# Sourced by the methods' files and by all.sh: what all cells of the published table share, and how they are run.
#
#   bash scripts/METHOD.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
#   DRY_RUN=1            print the commands, one a line, and run none
#   SEEDS="0 1 2"        (default: 0) seed N writes into folders of its own, ..._seedN
#   ROWS="4 10 oracle"   (default: all) selects among the rows of erm.sh
#   DATA, LOGS           (default: data, logs) folders of the datasets and of the runs
#   JOBS=4               (default: 1) so many cells at a time, spread over the GPUs of CUDA_VISIBLE_DEVICES, or all GPUs
#   PYTHON               (default: python)
#
# Paths are relative to the project's folder. A finished cell shows its result and an interrupted one continues: the
# Python scripts see to that. Written for bash 3.2 too, which is macOS's.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
PYTHON=${PYTHON:-python} SEEDS=${SEEDS:-0} DATA=${DATA:-data} LOGS=${LOGS:-logs} JOBS=${JOBS:-1}

# In the order of the table: name, folder in DATA, name in LOGS, flags.
DATASETS="
Food101           food101     food101
CIFAR10           cifar10     cifar10    --train-resizing cifar --val-resizing cifar \
                                         --norm-mean 0.4912 0.4824 0.4467 --norm-std 0.2471 0.2435 0.2616
CIFAR100          cifar100    cifar100   --train-resizing cifar --val-resizing cifar \
                                         --norm-mean 0.5071 0.4867 0.4408 --norm-std 0.2675 0.2565 0.2761
CUB200            cub200      cub200
Aircraft          aircraft    aircraft
StanfordCars      cars        car
SUN397            sun397      sun
DTD               dtd         dtd
OxfordIIITPets    pets        pets
OxfordFlowers102  flowers     flowers
Caltech101        caltech101  caltech
"
MOCO="--pretrained-backbone checkpoints/moco_v2_800ep_backbone.pth"

# cells METHOD ARGUMENT...: run, or print, the selected cells of the method. Its table comes on stdin:
#
#   row 4 --num-samples-per-class 4          a row of the published table and its flags (this one is the default)
#   supervised    --lr   --flag=value        what follows is for this pretraining: the flag of each column, and then
#   CIFAR10       0.01                       the values; a flag with a value is the same for all
cells() {
    local method=$1 table
    shift
    table=$(cat)
    select_cells "$@"
    select_rows "$table"
    commands=$(print_commands "$method" "$table")
    [ -n "$commands" ] || fail "scripts/$method.sh has no settings for $datasets with $pretrainings"
    run_or_print "$commands"
}

fail() {
    echo "error: $*" >&2
    exit 2
}

# Set `pretrainings`, `datasets` and `extra` (flags, quoted) from the arguments.
select_cells() {
    local known argument
    known=$(echo "$DATASETS" | awk 'NF { printf "%s%s", gap, $1; gap = " " }')
    pretrainings='' datasets='' extra=''
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        case $1 in
            supervised | moco) pretrainings="$pretrainings $1" ;;
            *)
                is_among "$1" "$known" || fail "'$1' is none of supervised, moco, $known (flags come after --)"
                datasets="$datasets $1"
                ;;
        esac
        shift
    done
    case $pretrainings in
        '' | *supervised*moco* | *moco*supervised*) pretrainings="supervised moco" ;;
    esac
    datasets=${datasets:-$known}
    if [ $# -gt 1 ]; then
        shift
        extra=$(printf ' %q' "$@")
    fi
    for argument in $SEEDS; do
        case $argument in *[!0-9]* | 0?*) fail "SEEDS takes whole numbers, not '$argument'" ;; esac
    done
    case $JOBS in *[!0-9]* | 0*) fail "JOBS takes a whole number of 1 or more, not '$JOBS'" ;; esac
}

# Set `rows`: those of the table, or those of ROWS where the table has several.
select_rows() {
    local known row
    known=$(echo "$1" | awk '$1 == "row" { printf "%s%s", gap, $2; gap = " " }')
    rows=${known:-4}
    if [ -n "$known" ] && [ -n "${ROWS:-}" ]; then
        for row in $ROWS; do is_among "$row" "$known" || fail "ROWS takes $known, not '$row'"; done
        rows=$ROWS
    fi
}

# is_among WORD LIST
is_among() {
    case " $2 " in
        *" $1 "*) ;;
        *) return 1 ;;
    esac
}

# print_commands METHOD TABLE: the commands of the selected cells, one a line
print_commands() {
    local seed pretraining row dataset flags row_flags
    for seed in $SEEDS; do
        for pretraining in $pretrainings; do
            for row in $rows; do
                row_flags=$(echo "$2" | awk -v row="$row" '$1 == "row" && $2 == row { $1 = $2 = ""; print }')
                settings "$2" "$pretraining" | while read -r dataset flags; do
                    is_among "$dataset" "$datasets" || continue
                    flags="${row_flags:-"--num-samples-per-class 4"} -a resnet50 --finetune $flags"
                    print_command "$1" "$pretraining" "$dataset" "$row" "$seed" "$flags"
                done || return
            done
        done
    done
}

# print_command METHOD PRETRAINING DATASET ROW SEED FLAGS
print_command() {
    local folder name dataset_flags pretraining_flags='' log=$LOGS/$1
    if [ "$2" = moco ]; then
        pretraining_flags=$MOCO
        log=${log}_moco_pretrain
    fi
    read -r folder name dataset_flags <<<"$(echo "$DATASETS" | awk -v name="$3" '$1 == name { $1 = ""; print }')"
    case $4 in
        oracle) log=$log/${name}_oracle ;;
        *) log=$log/${name}_$4_labels_per_class ;;
    esac
    [ "$5" = 0 ] || log=${log}_seed$5
    printf '%q %q %q -d %s ' "$PYTHON" "$1.py" "$DATA/$folder" "$3"
    # shellcheck disable=SC2086  # the flags are words
    printf '%s ' $dataset_flags $6 $pretraining_flags
    printf -- '--seed %s --log %q%s\n' "$5" "$log" "$extra"
}

# settings TABLE PRETRAINING: its lines, each as `DATASET --flag value --flag value ...`
settings() {
    echo "$1" | awk -v pretraining="$2" '
        NF == 0 || $1 == "row" { next }
        $1 == "supervised" || $1 == "moco" { here = $1 == pretraining; for (i = 2; i <= NF; i++) flag[i] = $i; n = NF; next }
        here {
            line = $1; value = 2
            for (i = 2; i <= n; i++)
                if (split(flag[i], parts, "=") == 2) line = line " " parts[1] " " parts[2]
                else line = line " " flag[i] " " $(value++)
            if (value != NF + 1) { print "error: the line of " $1 " has not a value for each flag" > "/dev/stderr"; exit 2 }
            print line
        }'
}

# run_or_print COMMANDS
run_or_print() {
    case ${DRY_RUN:-0} in
        0) run "$1" ;;
        *) echo "$1" ;;
    esac
}

# run COMMANDS: all of them, JOBS at a time; then a summary. The status is 0 where all have succeeded.
run() {
    local gpus worker pid pids=''
    total=$(echo "$1" | wc -l | tr -d ' ')
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo "$1" >"$work/commands"
    gpus=$(list_gpus)
    for ((worker = 0; worker < JOBS; worker++)); do
        work_off "$(nth_gpu "$worker" "$gpus")" &
        pids="$pids $!"
    done
    # Workers pass it on to their scripts, which save themselves.
    # shellcheck disable=SC2064,SC2086
    trap "touch '$work/stop'; kill -TERM $pids 2>/dev/null || true" INT TERM
    for pid in $pids; do
        while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done  # a signal ends the wait, not the worker
    done
    summarize
}

# The GPUs to spread cells over; none where all cells shall see what there is.
list_gpus() {
    if [ "$JOBS" -gt 1 ] && [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        echo "$CUDA_VISIBLE_DEVICES" | tr , ' '
    elif [ "$JOBS" -gt 1 ] && command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index --format=csv,noheader || true
    fi
}

# nth_gpu NUMBER GPUS: from 0, and round again after the last
nth_gpu() {
    echo "$2" | tr '\n' ' ' | awk -v number="$1" 'NF { print $(number % NF + 1) }'
}

# work_off GPU: run, one after another, the commands that no other worker has begun
work_off() {
    local command number=0 status child=''
    [ -z "$1" ] || export CUDA_VISIBLE_DEVICES=$1
    trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM
    while IFS= read -r command; do
        number=$((number + 1))
        # $$ is the shell file's process: nobody is left to work for once that was killed.
        if [ -e "$work/stop" ] || ! kill -0 $$ 2>/dev/null || ! mkdir "$work/$number" 2>/dev/null; then continue; fi
        echo "== $number/$total: $command"
        if [ "$JOBS" -eq 1 ]; then
            eval "exec $command" </dev/null &
        else
            eval "exec $command" </dev/null >"$work/$number/output" 2>&1 &
        fi
        child=$!
        status=0
        wait "$child" || status=$?
        while kill -0 "$child" 2>/dev/null; do  # it is saving itself
            status=0
            wait "$child" || status=$?
        done
        child=''
        echo "$status" >"$work/$number/status"
        [ "$status" -eq 0 ] || [ "$JOBS" -eq 1 ] || tail -n 1 "$work/$number/output" >&2
    done <"$work/commands"
}

# How many cells succeeded, and which did not; fails where there are any.
summarize() {
    local command number=0 done=0 status others=''
    while IFS= read -r command; do
        number=$((number + 1))
        status='not run'
        [ ! -e "$work/$number/status" ] || status="exit code $(cat "$work/$number/status")"
        case $status in
            "exit code 0") done=$((done + 1)) ;;
            *) others="$others$status: $command"$'\n' ;;
        esac
    done <"$work/commands"
    echo
    echo "$done of $total cells are finished"
    [ -z "$others" ] && return
    printf '%s' "$others" >&2
    [ ! -e "$work/stop" ] || return 130
    return 1
}
