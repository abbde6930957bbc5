#!/usr/bin/env bash
# The cells of Self-Tuning's row.
#
#   bash scripts/self_tuning.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells self_tuning "$@" <<'TABLE'
supervised        --lr
Food101           0.003
CIFAR10           0.003
CIFAR100          0.003
CUB200            0.003
Aircraft          0.01
StanfordCars      0.01
SUN397            0.003
DTD               0.003
OxfordIIITPets    0.003
OxfordFlowers102  0.01
Caltech101        0.003

moco              --lr
Food101           0.001
CIFAR10           0.001
CIFAR100          0.001
CUB200            0.001
Aircraft          0.003
StanfordCars      0.01
SUN397            0.001
DTD               0.001
OxfordIIITPets    0.001
OxfordFlowers102  0.001
Caltech101        0.001
TABLE
