#!/usr/bin/env bash
# The classic table: Wide ResNets from scratch on CIFAR-10, CIFAR-100, SVHN and STL-10 with few labels.
#
#   bash scripts/scratch.sh [METHOD ...] [DATASET ...] [LABELS ...] [-- EXTRA FLAGS]
#   SEEDS="0 1 2" bash scripts/scratch.sh fixmatch CIFAR10 40 250
#   STEPS=10000 bash scripts/scratch.sh erm fixmatch CIFAR10 4000     a shorter schedule
#
# cells.sh lists what else can be set. The settings and the published errors are TorchSSL's, and USB's for ERM,
# FreeMatch, SoftMatch, AdaMatch, CoMatch and SimMatch. docs/from_scratch.md lists what still differs. In TorchSSL, Mean
# Teacher's weight is 50 and Pi Model's 10, for means over the classes (Mean Teacher's over the 64 images, too). Here
# the losses are sums, so the weights are smaller.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"
export LOGS=${LOGS:-logs/scratch}

grid "$@" <<'GRID'
schedule 1048576 256
methods erm pseudo_label pi_model mean_teacher uda fixmatch flexmatch freematch softmatch adamatch comatch simmatch vat mixmatch remixmatch oracle
dataset CIFAR10  cifar10   10   40  250  4000
dataset CIFAR100 cifar100 100  400 2500 10000
dataset SVHN     svhn      10   40  250  1000
dataset STL10    stl10     10   40  250  1000

all CIFAR10  -d CIFAR10   -a wrn_28_2_leaky --wd 0.0005
all CIFAR100 -d CIFAR100  -a wrn_28_8_leaky --wd 0.001
all SVHN     -d SVHNExtra -a wrn_28_2_leaky --wd 0.0005 --norm-mean 0.438 0.444 0.473 --norm-std 0.1751 0.1771 0.1744
all STL10    -d STL10     -a wrn_37_2_leaky --wd 0.0005 --norm-mean 0.441 0.428 0.387 --norm-std 0.268 0.261 0.269

all all  --scratch --no-bottleneck --train-resizing native --val-resizing native --auto-augment classic
all all  --batch-size 64 --lr 0.03 --lr-scheduler cos --no-decay-on-norms --ema 0.999

erm,pseudo_label,pi_model,mean_teacher,vat,oracle    all  --trade-off-cls-strong 0
uda,fixmatch,flexmatch,freematch,softmatch,adamatch  all  --trade-off-cls-strong 0

pseudo_label,pi_model,mean_teacher,vat      all  --labeled-in-unlabeled --unlabeled-batch-size 64 --labeled-statistics
mixmatch,remixmatch                         all  --labeled-in-unlabeled --unlabeled-batch-size 64
uda,fixmatch,flexmatch,freematch,softmatch  all  --labeled-in-unlabeled --unlabeled-batch-size 448 --joint-passes
adamatch,comatch,simmatch                   all  --labeled-in-unlabeled --unlabeled-batch-size 448 --joint-passes

pseudo_label        all                 --threshold 0.95 --warm-up-epochs 40%
pi_model            all                 --warm-up-epochs 40% --ramp-up linear --one-sided
pi_model            CIFAR10,SVHN,STL10  --trade-off-con 1
pi_model            CIFAR100            --trade-off-con 0.1
mean_teacher        all                 --warm-up-epochs 40% --ramp-up linear --alpha 0.999
mean_teacher        CIFAR10,SVHN,STL10  --trade-off-con 0.078125
mean_teacher        CIFAR100            --trade-off-con 0.0078125
uda                 all                 --uda-variant paper --T 0.4 --threshold 0.8
fixmatch            all                 --threshold 0.95
flexmatch           all                 --threshold 0.95 --warmup
freematch           all                 --momentum 0.999 --trade-off-fairness 0.001
freematch           SVHN                --max-tau 0.95
softmatch           all                 --momentum 0.999 --n-sigma 2
adamatch            all                 --momentum 0.999 --threshold 0.95 --window 0
comatch             all                 --threshold 0.95 --graph-threshold 0.8 --T 0.2 --smoothing 0.9 --window 32
comatch             all                 --bank-batches 5 --projection-dim 64
comatch             CIFAR10,CIFAR100,SVHN  --trade-off-contrast 1
comatch             STL10               --trade-off-contrast 5
simmatch            all                 --threshold 0.95 --T 0.1 --smoothing 0.9 --window 32 --bank-momentum 0.7
simmatch            all                 --projection-dim 128
vat                 all                 --warm-up-epochs 40% --trade-off-con 0.3 --trade-off-entropy 0.06 --eps 6
mixmatch            all                 --warm-up-epochs 40% --trade-off-con 100 --T 0.5 --beta 0.5 --one-lambda
remixmatch          all                 --warm-up-epochs 1.5625% --T 0.5 --beta 0.75 --one-lambda --weak-labeled
remixmatch          all                 --trade-off-self-training 1.5 --trade-off-unmixed 0.5 --trade-off-rotation 0.5
oracle              all                 --oracle
GRID
