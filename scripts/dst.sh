#!/usr/bin/env bash
# The cells of DST's row.
#
#   bash scripts/dst.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells dst "$@" <<'TABLE'
supervised        --lr   --threshold  --eta-prime  --trade-off-self-training
Food101           0.01   0.8          2            1
CIFAR10           0.003  0.7          2            1
CIFAR100          0.003  0.7          2            1
CUB200            0.01   0.95         2            0.3
Aircraft          0.01   0.7          1            1
StanfordCars      0.01   0.7          2            1
SUN397            0.01   0.7          2            1
DTD               0.003  0.95         2            1
OxfordIIITPets    0.001  0.9          2            0.3
OxfordFlowers102  0.01   0.9          1            0.3
Caltech101        0.001  0.7          4            1

moco              --lr   --threshold  --eta-prime  --trade-off-self-training  --lr-scheduler=cos
Food101           0.003  0.7          1            1
CIFAR10           0.001  0.95         2            1
CIFAR100          0.001  0.7          1            1
CUB200            0.01   0.7          2            1
Aircraft          0.01   0.7          1            1
StanfordCars      0.01   0.7          1            1
SUN397            0.003  0.7          2            0.3
DTD               0.001  0.95         3            0.1
OxfordIIITPets    0.001  0.7          1            0.1
OxfordFlowers102  0.003  0.95         1            1
Caltech101        0.001  0.95         1            0.1
TABLE
