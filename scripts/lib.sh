# Shared by the scripts in this folder and by .ci/run; sourced, not run.
#
# Everything that the build needs from outside goes through here: an interpreter, a C++20 compiler, system
# packages (apt-get, as root or with sudo) and a virtual environment. Each function does nothing when what
# it is asked for is already there.

say() { printf '\n==> %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# install_packages PACKAGE…: by apt-get; says what to install by hand where it cannot.
_apt_updated=
install_packages() {
  local as_root=()
  if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null || die "please install these packages, then run this again: $*"
    as_root=(sudo)
  fi
  command -v apt-get >/dev/null || die "no apt-get here; please install the equivalent of: $*"
  say "Installing system packages: $*"
  if [[ -z $_apt_updated ]]; then
    "${as_root[@]}" apt-get update -qq
    _apt_updated=1
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# find_python: prints an interpreter of 3.10 or newer that starts ($PYTHON first), or fails.
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  return 1
}

# ensure_python: sets $PYTHON to an interpreter that can make virtual environments and has its C headers.
ensure_python() {
  if ! PYTHON=$(find_python); then
    install_packages python3 python3-venv python3-dev
    PYTHON=$(find_python) || die "Python 3.10 or newer is needed"
  fi
  local missing='import os, sys, sysconfig, venv, ensurepip
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
  if ! "$PYTHON" -c "$missing" 2>/dev/null; then
    local version
    version=$("$PYTHON" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    install_packages "$version-venv" "$version-dev"
    "$PYTHON" -c "$missing" || die "$PYTHON has no venv module or no C headers"
  fi
}

# compiles COMPILER: whether it builds C++20 as this project uses it (GCC 12 or newer, clang 16 or newer).
compiles() {
  command -v "$1" >/dev/null || return 1
  "$1" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null <<'CC'
#include <bit>
#include <concepts>
#include <span>
#if defined(__clang__) ? __clang_major__ < 16 : __GNUC__ < 12
#error "too old"
#endif
CC
}

# ensure_compiler: exports $CXX, a C++ compiler that is new enough.
ensure_compiler() {
  local candidate round
  for round in present g++ g++-12; do
    [[ $round == present ]] || install_packages "$round" libc6-dev
    for candidate in ${CXX:-} c++ g++ g++-14 g++-13 g++-12 clang++ clang++-18 clang++-17 clang++-16; do
      if compiles "$candidate"; then
        export CXX=$candidate
        return
      fi
    done
  done
  die "a C++20 compiler is needed: GCC 12 or newer, or clang 16 or newer"
}

# ensure_venv FOLDER: a virtual environment of $PYTHON there, made anew when it is of another interpreter.
ensure_venv() {
  local venv=$1 want have
  want=$("$PYTHON" -c 'import sys; print(sys.version)')
  have=$("$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null || true)
  if [[ $want != "$have" ]]; then
    say "Making the virtual environment $venv"
    "$PYTHON" -m venv --clear "$venv"
  fi
}

# ensure_cmake VENV: cmake 3.21 or newer and ninja on PATH, from PyPI into VENV where the system has none.
ensure_cmake() {
  export PATH="$PATH:$1/bin"
  local version
  version=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*//p' || true)
  if [[ $(printf '%s\n' 3.21 "$version" | sort -V | head -n1) != 3.21 ]]; then
    "$1/bin/python" -m pip install -q cmake
    export PATH="$1/bin:$PATH"
  fi
  command -v ninja >/dev/null || "$1/bin/python" -m pip install -q ninja
}

# ensure_curl: libcurl's headers, for the HTTP client.
ensure_curl() {
  if ! "$CXX" -x c++ -fsyntax-only - 2>/dev/null <<<'#include <curl/curl.h>'; then
    install_packages libcurl4-openssl-dev
  fi
}

# source_id: prints a fingerprint of everything that an installation is built from.
source_id() {
  find CMakeLists.txt pyproject.toml README.md LICENSE cpp python -type f \
    ! -name '*.so' ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum
}

# install_weightlift VENV EXTRAS: builds and installs this source tree, unless that is what is installed already.
install_weightlift() {
  local venv=$1 extras=$2 id
  id=$(source_id)
  if [[ $id == "$(cat "$venv/weightlift-source" 2>/dev/null)" ]]; then
    install_extras "$venv" "$extras"
    return
  fi
  ensure_compiler
  ensure_curl
  say "Building and installing weightlift[$extras] into $venv"
  rm -f "$venv/weightlift-source"
  "$venv/bin/python" -m pip install -q ".[$extras]"
  printf '%s' "$id" >"$venv/weightlift-source"
}

# install_extras VENV EXTRAS: the optional dependencies of the weightlift that is installed there.
install_extras() {
  "$1/bin/python" - "$2" <<'PY' | xargs -d '\n' -r "$1/bin/python" -m pip install -q
import re, sys
from importlib.metadata import requires

for line in requires("weightlift") or []:
    extra = re.search(r"""extra == ["'](\w+)""", line)
    if extra and extra.group(1) in sys.argv[1].split(","):
        print(line.split(";")[0].strip())
PY
}
