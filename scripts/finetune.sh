#!/usr/bin/env bash
# All methods fine-tune EfficientNet-Lite0 from its ImageNet weights, with 4 labels per class of FashionMNIST and of
# CIFAR-10, on two CPU cores: 64 pixels, 300 steps of 32 labeled and 32 unlabeled images, tested every 100.
#
#   bash scripts/finetune.sh [METHOD ...] [DATASET ...] [-- EXTRA FLAGS]
#   SEEDS="0 1 2" JOBS=2 OMP_NUM_THREADS=1 bash scripts/finetune.sh FashionMNIST
#
#   WEIGHTS=FILE   a backbone file in place of the weights that timm downloads: scripts/lite0_backbone.py makes one
#   JPEG=1         CIFAR-10 as JPEG files, DATA/cifar10_jpeg/{train,test}/CLASS/*.jpg, in place of its own archive
#
# cells.sh lists what else can be set. The runs go seed by seed, so that those of one seed are a whole table.
#
# Nothing is tuned on this data. Ten methods have the learning rates, thresholds and other settings of the published
# table's column CIFAR10, pretrained with labels; FreeMatch, SoftMatch, Noisy Student and V-PET those of their shell files
# in scripts/. They were made for a ResNet-50, 224 pixels and 10,000 steps or more. These differ, since the schedule is so
# short:
#   The ramp of Mean Teacher and Pi Model takes the first of three epochs (there a quarter of the epochs), and
#   Self-Tuning's rate falls after the first and the second (there at each fifth).
#   Noisy Student's teacher and its three students take 300 steps each.
#   V-PET's sources, ERM and FixMatch, vote on one view of each image in place of ten. Their runs must be finished. If
#   JOBS starts V-PET too early, because few other methods are in between, give the same command again.
#   The table lacks AdaMatch, CoMatch, SimMatch, VAT, MixMatch and ReMixMatch. They have FixMatch's learning rate and
#   their own defaults, with two exceptions. Their averages of the weights forget ten times as fast: after 300 steps,
#   0.999 would still keep three quarters of the first weights. VAT's ramp takes the first epoch, as the last two's do.
#   The oracle, ERM with all labels, has as many steps as the others.
# These do not, although they hardly move in 300 steps: the running means of FreeMatch and SoftMatch (momentum 0.999 is a
# quarter of the way after 300), and that of DebiasMatch, which begins anew in each epoch (a tenth of the way after 100).
# MixMatch keeps its weight of 75.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"
export SEEDS=${SEEDS:-"0 1 2"} LOGS=${LOGS:-logs/finetune}

weights_and_images

grid "$@" <<GRID
schedule 300 3
methods erm fixmatch flexmatch freematch softmatch uda debiasmatch dst self_tuning pseudo_label pi_model mean_teacher noisy_student v_pet adamatch comatch simmatch vat mixmatch remixmatch oracle
dataset FashionMNIST fashion_mnist 10 40
dataset CIFAR10      $cifar10      10 40

all FashionMNIST  -d FashionMNIST
all CIFAR10       -d $reader

all all  -a tf_efficientnet_lite0 $weights --finetune --image-size 64 --workers 0
all all  --train-resizing cifar --val-resizing cifar --norm-mean 0.498 0.498 0.498 --norm-std 0.502 0.502 0.502

erm,oracle    all  --lr 0.03
fixmatch      all  --lr 0.003 --threshold 0.7
flexmatch     all  --lr 0.003 --threshold 0.95
freematch     all  --lr 0.003
softmatch     all  --lr 0.003
uda           all  --lr 0.003 --threshold 0.95
debiasmatch   all  --lr 0.01 --threshold 0.9 --tau 3
dst           all  --lr 0.003 --threshold 0.7 --eta-prime 2 --trade-off-self-training 1
self_tuning   all  --lr 0.003 --milestones 34%+ 67%+
pseudo_label  all  --lr 0.003 --threshold 0.8
pi_model      all  --lr 0.01 --warm-up-epochs 25%+
mean_teacher  all  --lr 0.05 --warm-up-epochs 25%+
noisy_student all  --lr 0.03 --T 0.5
v_pet         all  --lr 0.003 --sources @erm @fixmatch --passes 1
adamatch      all  --lr 0.003 --ema 0.99
comatch       all  --lr 0.003 --ema 0.99
simmatch      all  --lr 0.003 --ema 0.99
vat           all  --lr 0.003 --warm-up-epochs 25%+
mixmatch      all  --lr 0.003 --ema 0.99
remixmatch    all  --lr 0.003 --ema 0.99
oracle        all  --oracle
GRID
