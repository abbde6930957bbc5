#!/usr/bin/env bash
# The cells of Mean Teacher's row.
#
#   bash scripts/mean_teacher.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells mean_teacher "$@" <<'TABLE'
supervised        --lr
Food101           0.03
CIFAR10           0.05
CIFAR100          0.03
CUB200            0.03
Aircraft          0.03
StanfordCars      0.05
SUN397            0.003
DTD               0.003
OxfordIIITPets    0.003
OxfordFlowers102  0.03
Caltech101        0.01

moco              --lr   --lr-scheduler=cos
Food101           0.01
CIFAR10           0.01
CIFAR100          0.01
CUB200            0.03
Aircraft          0.03
StanfordCars      0.03
SUN397            0.003
DTD               0.003
OxfordIIITPets    0.003
OxfordFlowers102  0.03
Caltech101        0.003
TABLE
