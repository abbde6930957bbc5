#!/usr/bin/env bash
# The cells of FlexMatch's row.
#
#   bash scripts/flexmatch.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells flexmatch "$@" <<'TABLE'
supervised        --lr   --threshold
Food101           0.01   0.95
CIFAR10           0.003  0.95
CIFAR100          0.003  0.8
CUB200            0.001  0.9
Aircraft          0.01   0.8
StanfordCars      0.03   0.95
SUN397            0.003  0.8
DTD               0.001  0.9
OxfordIIITPets    0.001  0.95
OxfordFlowers102  0.003  0.95
Caltech101        0.001  0.95

moco              --lr   --threshold  --lr-scheduler=cos
Food101           0.001  0.95
CIFAR10           0.001  0.95
CIFAR100          0.001  0.95
CUB200            0.01   0.95
Aircraft          0.01   0.95
StanfordCars      0.01   0.95
SUN397            0.001  0.7
DTD               0.001  0.9
OxfordIIITPets    0.003  0.95
OxfordFlowers102  0.03   0.95
Caltech101        0.001  0.95
TABLE
