#!/usr/bin/env bash
# Installs Weightlift from this clone into a virtual environment, with the system packages that building needs
# (a C++20 compiler, libcurl's headers, Python's headers and venv module), on Debian or Ubuntu.
#
#   scripts/install.sh [EXTRAS]     EXTRAS: optional dependencies, comma-separated; default: cli
#
# Environment: PYTHON  interpreter, 3.10 or newer (default: python3)
#              CXX     C++ compiler (default: the first that is new enough)
#              VENV    folder of the virtual environment (default: .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

extras=${1:-cli}
venv=${VENV:-.venv}

ensure_python
ensure_venv "$venv"
install_weightlift "$venv" "$extras"
"$venv/bin/python" -c 'import weightlift; print("weightlift", weightlift.__version__, "is installed")'
