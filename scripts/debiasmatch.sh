#!/usr/bin/env bash
# The cells of DebiasMatch's row.
#
#   bash scripts/debiasmatch.sh [supervised|moco] [DATASET ...] [-- EXTRA FLAGS]
#
# cells.sh lists what else can be set.
set -euo pipefail
# shellcheck source=scripts/cells.sh
. "$(dirname "${BASH_SOURCE[0]}")/cells.sh"

cells debiasmatch "$@" <<'TABLE'
supervised        --lr   --threshold  --tau
Food101           0.01   0.8          1
CIFAR10           0.01   0.9          3
CIFAR100          0.01   0.9          3
CUB200            0.01   0.9          3
Aircraft          0.01   0.95         1
StanfordCars      0.03   0.9          1
SUN397            0.01   0.7          1
DTD               0.001  0.7          3
OxfordIIITPets    0.001  0.95         3
OxfordFlowers102  0.01   0.95         3
Caltech101        0.003  0.95         3

moco              --lr   --threshold  --tau  --lr-scheduler=cos
Food101           0.003  0.9          3
CIFAR10           0.001  0.95         3
CIFAR100          0.001  0.95         1
CUB200            0.03   0.95         3
Aircraft          0.01   0.95         3
StanfordCars      0.03   0.95         1
SUN397            0.001  0.7          3
DTD               0.001  0.95         3
OxfordIIITPets    0.001  0.95         3
OxfordFlowers102  0.001  0.95         3
Caltech101        0.001  0.95         3
TABLE
