#!/usr/bin/env bash
# The cells of Pi Model's row.
#
#   bash scripts/pi_model.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells pi_model "$@" <<'TABLE'
supervised        --lr
Food101           0.01
CIFAR10           0.01
CIFAR100          0.003
CUB200            0.01
Aircraft          0.01
StanfordCars      0.03
SUN397            0.003
DTD               0.03
OxfordIIITPets    0.001
OxfordFlowers102  0.03
Caltech101        0.01

moco              --lr   --lr-scheduler=cos
Food101           0.003
CIFAR10           0.01
CIFAR100          0.003
CUB200            0.03
Aircraft          0.01
StanfordCars      0.01
SUN397            0.001
DTD               0.003
OxfordIIITPets    0.001
OxfordFlowers102  0.03
Caltech101        0.003
TABLE
