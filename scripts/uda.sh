#!/usr/bin/env bash
# The cells of UDA's row.
#
#   bash scripts/uda.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells uda "$@" <<'TABLE'
supervised        --lr   --threshold
Food101           0.003  0.7
CIFAR10           0.003  0.95
CIFAR100          0.003  0.7
CUB200            0.003  0.7
Aircraft          0.003  0.7
StanfordCars      0.003  0.7
SUN397            0.001  0.7
DTD               0.003  0.8
OxfordIIITPets    0.001  0.7
OxfordFlowers102  0.003  0.7
Caltech101        0.001  0.7

moco              --lr   --threshold  --lr-scheduler=cos
Food101           0.001  0.7
CIFAR10           0.001  0.7
CIFAR100          0.001  0.7
CUB200            0.001  0.7
Aircraft          0.001  0.7
StanfordCars      0.001  0.7
SUN397            0.001  0.7
DTD               0.001  0.7
OxfordIIITPets    0.001  0.7
OxfordFlowers102  0.001  0.8
Caltech101        0.001  0.7
TABLE
