#!/usr/bin/env bash
# Check the style and the types, and run all the tests, in a virtual environment of the project's own.
#
#   bash scripts/test.sh [PYTEST ARGUMENTS]     -n 0 runs them one after the other, for --pdb
#   bash scripts/test.sh --shuffle 1            the same tests in another order
set -euo pipefail
# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install tests/requirements.txt

ruff format --check .
ruff check .
mypy
for file in scripts/*.sh; do bash -n "$file"; done
# Files run side by side: a test computes on one thread, since more would change the last bits.
exec python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile "$@"
