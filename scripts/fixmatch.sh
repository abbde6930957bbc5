#!/usr/bin/env bash
# The cells of FixMatch's row.
#
#   bash scripts/fixmatch.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells fixmatch "$@" <<'TABLE'
supervised        --lr   --threshold
Food101           0.01   0.7
CIFAR10           0.003  0.7
CIFAR100          0.01   0.8
CUB200            0.01   0.7
Aircraft          0.01   0.7
StanfordCars      0.01   0.7
SUN397            0.003  0.7
DTD               0.001  0.95
OxfordIIITPets    0.001  0.7
OxfordFlowers102  0.01   0.9
Caltech101        0.003  0.7

moco              --lr   --threshold  --lr-scheduler=cos
Food101           0.003  0.9
CIFAR10           0.001  0.95
CIFAR100          0.001  0.7
CUB200            0.01   0.9
Aircraft          0.01   0.9
StanfordCars      0.01   0.8
SUN397            0.003  0.8
DTD               0.001  0.9
OxfordIIITPets    0.01   0.95
OxfordFlowers102  0.01   0.9
Caltech101        0.001  0.7
TABLE
