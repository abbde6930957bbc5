# Sourced by quickstart.sh and test.sh: go to the project's root and enter its virtual environment, .venv, which is
# made at the first call and kept. A second call needs no network.
# shellcheck shell=bash

case " $* " in
    *" -h "* | *" --help "*)
        sed -n -e '1d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$0"
        exit
        ;;
esac
CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." || exit
PYTHON=${PYTHON:-python3}

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: Python 3.11 or later is needed: set PYTHON to one, e.g. PYTHON=python3.12 bash $0" >&2
    exit 2
fi
[ -e .venv/bin/activate ] || "$PYTHON" -m venv .venv # which writes this file last
# shellcheck source=/dev/null
. .venv/bin/activate
PYTHON=python # from here on the environment's, also for the programs that read the variable

# install FILE: once, and again when the file has changed
install() {
    local stamp
    stamp=.venv/$(echo "$1" | tr / _).installed
    if ! cmp -s "$1" "$stamp"; then
        echo "installing $1 into .venv (PyTorch takes minutes and gigabytes, once) ..."
        pip install --quiet --disable-pip-version-check -r "$1"
        cp "$1" "$stamp"
    fi
}

install requirements.txt
