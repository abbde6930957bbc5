#!/usr/bin/env bash
# The cells of ERM's rows: 4 labels per class, 10 labels per class, and the oracle, which has all labels.
#
#   bash scripts/erm.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#   ROWS="4 oracle" bash scripts/erm.sh supervised CIFAR100
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells erm "$@" <<'TABLE'
row 4       --num-samples-per-class 4
row 10      --num-samples-per-class 10
row oracle  --oracle --epochs 80

supervised        --lr
Food101           0.01
CIFAR10           0.03
CIFAR100          0.01
CUB200            0.003
Aircraft          0.03
StanfordCars      0.03
SUN397            0.001
DTD               0.03
OxfordIIITPets    0.001
OxfordFlowers102  0.03
Caltech101        0.003

moco              --lr   --lr-scheduler=cos
Food101           0.01
CIFAR10           0.001
CIFAR100          0.001
CUB200            0.01
Aircraft          0.01
StanfordCars      0.03
SUN397            0.001
DTD               0.001
OxfordIIITPets    0.003
OxfordFlowers102  0.01
Caltech101        0.003
TABLE
