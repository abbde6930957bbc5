#!/usr/bin/env bash
# Noisy Student on the cells of the published table, which has no row of it. CIFAR100's settings are the ancestor's,
# but for the length of the first round; the others are ours: the learning rates of ERM's row, CIFAR100's temperatures.
#
#   bash scripts/noisy_student.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells noisy_student "$@" <<'TABLE'
supervised        --lr   --T=0.5
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

moco              --lr   --T=1  --lr-scheduler=cos
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
