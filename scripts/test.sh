#!/usr/bin/env bash
# Installs what the tests need and runs them all: the C++ tests by ctest, then the Python tests by pytest.
#
#   scripts/test.sh [PYTEST ARGUMENTS]
#
# Environment: as scripts/install.sh. Tests that need something that is not here (fixtures written by other
# frameworks, Node.js with TensorFlow.js, PyTorch) are skipped, each with its reason.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

export VENV=${VENV:-.venv}
scripts/install.sh test
ensure_compiler
ensure_curl
ensure_cmake "$VENV"

if command -v npm >/dev/null; then
  say "Installing TensorFlow.js, for the tests against it"
  tests/interop/setup_node.sh || echo "TensorFlow.js could not be installed: the tests against it will be skipped" >&2
fi

say "Building and running the C++ tests"
cmake --preset release
cmake --build --preset release
ctest --preset release

say "Running the Python tests"
"$VENV/bin/python" -m pytest -n "$(($(nproc) < 8 ? $(nproc) : 8))" --dist loadfile "$@"
