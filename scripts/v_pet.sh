#!/usr/bin/env bash
# V-PET on the cells of the published table, which has no row of it. ERM and FixMatch vote, so their cells must be
# finished first. The learning rates are FixMatch's.
#
#   bash scripts/v_pet.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells v_pet "$@" <<'TABLE'
supervised        --lr   --sources=@erm,@fixmatch
Food101           0.01
CIFAR10           0.003
CIFAR100          0.01
CUB200            0.01
Aircraft          0.01
StanfordCars      0.01
SUN397            0.003
DTD               0.001
OxfordIIITPets    0.001
OxfordFlowers102  0.01
Caltech101        0.003

moco              --lr   --sources=@erm,@fixmatch  --lr-scheduler=cos
Food101           0.003
CIFAR10           0.001
CIFAR100          0.001
CUB200            0.01
Aircraft          0.01
StanfordCars      0.01
SUN397            0.003
DTD               0.001
OxfordIIITPets    0.01
OxfordFlowers102  0.01
Caltech101        0.001
TABLE
