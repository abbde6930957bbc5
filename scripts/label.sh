#!/usr/bin/env bash
# From a folder of photos and a list of some labels to labels for all of them, in one command and so many minutes.
#
#   bash scripts/label.sh PHOTOS LABELS.csv [MINUTES] [FLAGS]        20 minutes, if nothing is said
#
#   WEIGHTS=FILE   a backbone file in place of the weights that timm downloads: scripts/lite0_backbone.py makes one
#   DRY_RUN=1      print the command, and run nothing; call it so from the project's folder, where its paths are right
#   PYTHON         (default: the project's .venv, if it is there, or python)
#
# Paths are as seen from the current folder. Interrupted, the same command continues. --help lists the flags.
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${PYTHON:-}" ] && [ -x "$project/.venv/bin/python" ]; then
    PYTHON=$project/.venv/bin/python
fi
[ -z "${WEIGHTS:-}" ] || set -- "$@" --weights "$WEIGHTS"
if [ "${DRY_RUN:-0}" != 0 ]; then
    printf '%q ' python scripts/label.py "$@"
    echo
    exit
fi
PYTHON=${PYTHON:-python}
if ! "$PYTHON" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))' >/dev/null 2>&1; then
    echo "error: '$PYTHON' is no Python with torch: run bash scripts/quickstart.sh once, or name another with PYTHON" >&2
    exit 2
fi
exec "$PYTHON" "$project/scripts/label.py" "$@"
