#!/usr/bin/env bash
# Check the style and run all the tests, in a virtual environment of the project's own.
#
#   bash scripts/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install tests/requirements.txt

ruff format --check .
ruff check .
for file in scripts/*.sh; do bash -n "$file"; done
exec python -m pytest "$@"
