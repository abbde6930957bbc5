#!/usr/bin/env bash
# Which method, and how long? The labels alone (ERM) and four methods with 20, 100 and 1,000 labels, on FashionMNIST and
# CIFAR-10, as label.sh trains: EfficientNet-Lite0 from its ImageNet weights, at the full rate and without a bottleneck.
#
#   bash scripts/which_method.sh [METHOD ...] [DATASET ...] [-- EXTRA FLAGS]
#   JPEG=1 JOBS=2 OMP_NUM_THREADS=1 bash scripts/which_method.sh
#
#   WEIGHTS=FILE   a backbone file in place of the weights that timm downloads: scripts/lite0_backbone.py makes one
#   JPEG=1         CIFAR-10 as JPEG files, DATA/cifar10_jpeg/{train,test}/CLASS/*.jpg, in place of its own archive
#
# 64 pixels, 320 steps of 32 labeled and 32 unlabeled images, tested every 80. Other than in label.sh the rate hardly
# falls, so each test is that of a shorter run. The labels are the same number of each class. ERM, DebiasMatch and DST
# have label.sh's flags. FixMatch and SoftMatch have its rate of 0.01, and FixMatch the threshold of the published table's
# CIFAR10. Nothing is tuned on this data. cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"
export SEEDS=${SEEDS:-0} LOGS=${LOGS:-logs/which_method}

weights_and_images

grid "$@" <<GRID
schedule 320 4
methods erm fixmatch debiasmatch dst softmatch
dataset FashionMNIST fashion_mnist 10 20 100 1000
dataset CIFAR10      $cifar10      10 20 100 1000

all FashionMNIST  -d FashionMNIST
all CIFAR10       -d $reader

all all  -a tf_efficientnet_lite0 $weights --no-bottleneck --image-size 64 --workers 0
all all  --train-resizing cifar --val-resizing cifar --norm-mean 0.5 0.5 0.5 --norm-std 0.5 0.5 0.5

erm          all  --lr 0.03
fixmatch     all  --lr 0.01 --threshold 0.7
debiasmatch  all  --lr 0.01 --threshold 0.9 --tau 3
dst          all  --lr 0.01 --threshold 0.7 --eta-prime 2 --trade-off-self-training 1
softmatch    all  --lr 0.01
GRID
