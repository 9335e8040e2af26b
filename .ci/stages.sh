# The stages of .ci/run, in order. Each is a function stage_NAME that fails by its exit status.
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export CTEST_PARALLEL_LEVEL=2 CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-2}
export WEIGHTLIFT_NODE=$PWD/build/node # where tests/interop/setup_node.sh puts TensorFlow.js
export WEIGHTLIFT_FRAMEWORKS=$PWD/build/frameworks # and tests/frameworks/setup.sh TensorFlow, MXNet and JAX
# Several stages compile the same files with the same flags, in different folders.
export CCACHE_DIR=$PWD/build/ccache CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
readonly SKIPPED=77
readonly VENV_PYTHON=.venv/bin/python
readonly SMOKE_PYTHONS=(3.10 3.13)
readonly SIDE_BY_SIDE=(-n 2 --dist loadfile) # pytest's, where tests do not measure
readonly FUZZ_SECONDS=20
readonly PYFUZZ_RUNS=10000 # so many in every run; look for new ones by hand, for longer

STAGES=(
  system install lint peers torch frameworks test isa asan tsan clang portable fuzz pyfuzz smoke bench
)

# note TEXT: shown beside the stage in the final table.
note() {
  printf '%s' "$1" >"build/ci/note-$STAGE"
  echo "$1"
}

# skip REASON: ends the stage as skipped.
skip() {
  note "$1"
  exit "$SKIPPED"
}

# run_pytest NAME ARGUMENT…: pytest of the installed package, with a report for the final table.
run_pytest() {
  local name=$1
  shift
  "$VENV_PYTHON" -m pytest -q "${SIDE_BY_SIDE[@]}" --junitxml="build/ci/junit/$name.xml" "$@"
}

# run_ctest NAME BUILD-FOLDER ARGUMENT…
run_ctest() {
  local name=$1 folder=$2
  shift 2
  ctest --test-dir "$folder" --output-on-failure --no-tests=error --output-junit "$PWD/build/ci/junit/$name.xml" "$@"
}

# ---- what everything else needs ---------------------------------------------------------------------
stage_system() {
  local packages=()
  command -v g++ >/dev/null || packages+=(g++)
  command -v cmake >/dev/null || packages+=(cmake)
  command -v ninja >/dev/null || packages+=(ninja-build)
  command -v git >/dev/null || packages+=(git)
  dpkg -s libcurl4-openssl-dev >/dev/null 2>&1 || packages+=(libcurl4-openssl-dev)
  command -v ccache >/dev/null || packages+=(ccache)
  command -v npm >/dev/null || packages+=(nodejs npm)
  command -v clang++-16 >/dev/null || packages+=(clang-16)
  command -v clang-format-16 >/dev/null || packages+=(clang-format-16)
  command -v curl >/dev/null || packages+=(curl)
  command -v openssl >/dev/null || packages+=(openssl)
  [[ -x /usr/sbin/nginx ]] || packages+=(nginx) # the servers of tests/http
  command -v tinyproxy >/dev/null || packages+=(tinyproxy)
  command -v radosgw >/dev/null || packages+=(radosgw ceph-mon ceph-osd) # the S3-compatible server of tests/objects
  command -v chromium >/dev/null || packages+=(chromium) # the page of tests/server
  [[ -e /usr/lib/llvm-16/lib/clang/16/lib/linux/libclang_rt.fuzzer-x86_64.a ]] || packages+=(libclang-rt-16-dev)
  if ((${#packages[@]})); then install_packages "${packages[@]}"; fi
  g++ --version | head -n1
  clang++-16 --version | head -n1
  cmake --version | head -n1
  python3 --version
  nproc
}

# The README's first command.
stage_install() {
  scripts/install.sh
  .venv/bin/weightlift demo
}

stage_lint() {
  install_extras .venv lint
  local failed=0
  "$VENV_PYTHON" -m ruff check . || failed=1
  "$VENV_PYTHON" -m ruff format --check . || failed=1
  "$VENV_PYTHON" -m mypy || failed=1
  git ls-files '*.h' '*.cc' | xargs clang-format-16 --dry-run -Werror || failed=1
  git ls-files '*.sh' .ci/run | xargs -n1 bash -n || failed=1
  return "$failed"
}

# Libraries that tests and benches compare with. TensorFlow.js comes with the test stage.
stage_peers() {
  # The converter's arithmetic is pure Python; its own dependencies (TensorFlow, JAX …) are not needed.
  "$VENV_PYTHON" -m pip install -q --no-deps tensorflowjs
  "$VENV_PYTHON" -m pip install -q requests httpx aiohttp obstore fsspec hf_transfer tensorstore
}

# The CPU build: of the other builds, each brings gigabytes of CUDA packages.
stage_torch() {
  local reason='PyTorch 2.13.0 for the CPU is not available for this Python here'
  "$VENV_PYTHON" -m pip download -q --no-deps --only-binary :all: -d build/ci/torch torch==2.13.0 || skip "$reason"
  compgen -G 'build/ci/torch/torch-*+cpu-*.whl' >/dev/null || skip "$reason"
  "$VENV_PYTHON" -m pip install -q build/ci/torch/torch-*.whl
  # Frameworks on top of it, which bring 30 MB.
  "$VENV_PYTHON" -m pip install -q --only-binary :all: lightning transformers accelerate ||
    note 'without Lightning and transformers, which are not available for this Python here'
}

# Those that ask for other versions of the same libraries, each in an environment of its own.
stage_frameworks() {
  PYTHON=$VENV_PYTHON tests/frameworks/setup.sh || skip 'a framework is not available for this Python here'
}

# ---- tests ------------------------------------------------------------------------------------------
# The README's second command: the C++ tests, then all Python tests.
stage_test() {
  CTEST_OUTPUT_ON_FAILURE=1 scripts/test.sh -q --junitxml=build/ci/junit/test.xml --durations=10
}

# The kernels' Python tests, and of what is made of their results, on each instruction set this machine has.
stage_isa() {
  local isa
  for isa in $("$VENV_PYTHON" -c 'from weightlift import _core; print(*_core.available_isas())'); do
    echo "-- WEIGHTLIFT_FORCE_ISA=$isa"
    WEIGHTLIFT_FORCE_ISA=$isa run_pytest "isa-$isa" tests/unit/test_{kernels_*,quantize,tfjs_pack}.py
  done
}

stage_asan() {
  cmake --preset asan
  cmake --build --preset asan
  run_ctest asan build/asan
}

# Where threads meet: the pool, plans, readers and writers, local and remote.
stage_tsan() {
  cmake --preset tsan
  cmake --build --preset tsan
  run_ctest tsan build/tsan -R 'pool|execute|reader|writer|buffer|late_ranges|http'
}

stage_clang() {
  cmake --preset release -B build/clang -DCMAKE_CXX_COMPILER=clang++-16
  cmake --build build/clang
  run_ctest clang build/clang
}

# What a machine without any known instruction set gets.
stage_portable() {
  cmake --preset release -B build/portable -DWEIGHTLIFT_PORTABLE=ON
  cmake --build build/portable
  run_ctest portable build/portable
}

stage_fuzz() {
  cmake --preset fuzz
  cmake --build --preset fuzz
  local targets=(build/fuzz/cpp/fuzz/*_fuzz)
  two_at_a_time fuzz_one "${targets[@]}"
}

# fuzz_one TARGET: the program of one of the core's parsers.
fuzz_one() {
  local target=$1 name options=()
  name=$(basename "$target")
  mkdir -p "build/ci/fuzz/$name"
  [[ -f cpp/fuzz/${name%_fuzz}.dict ]] && options=("-dict=cpp/fuzz/${name%_fuzz}.dict")
  "$target" -error_exitcode=1 -seed=1 -max_total_time="$FUZZ_SECONDS" -rss_limit_mb=2048 -timeout=10 \
    -print_final_stats=1 -artifact_prefix="build/ci/fuzz/$name/" "${options[@]}" "build/ci/fuzz/$name"
}

# The Python parsers, guided by coverage. The tests run the same targets on a few damaged files without the fuzzer.
stage_pyfuzz() {
  "$VENV_PYTHON" -m pip install -q --only-binary :all: atheris || skip 'atheris is not available for this Python here'
  local names
  mapfile -t names < <("$VENV_PYTHON" -c 'from tests.fuzz.targets import TARGETS; print(*TARGETS, sep="\n")')
  two_at_a_time pyfuzz_one "${names[@]}"
}

# pyfuzz_one NAME: one of tests/fuzz/targets.py.
pyfuzz_one() {
  mkdir -p "build/ci/pyfuzz/$1"
  "$VENV_PYTHON" -m tests.fuzz.fuzz "$1" "build/ci/pyfuzz/corpus-$1" -error_exitcode=1 -seed=1 \
    -runs="$PYFUZZ_RUNS" -max_total_time="$FUZZ_SECONDS" -artifact_prefix="build/ci/pyfuzz/$1/" -print_final_stats=1
}

# two_at_a_time COMMAND ARGUMENT…: COMMAND for each ARGUMENT, two of them side by side; the end of what each prints,
# in order. Fails when one of them did, or when there was none.
two_at_a_time() {
  local command=$1 argument log failed=0 logs
  shift
  (($#)) || return 1
  logs=$(mktemp -d)
  for argument in "$@"; do
    while (($(jobs -rp | wc -l) >= 2)); do wait -n || true; done
    log=$logs/$(basename "$argument")
    { "$command" "$argument" >"$log" 2>&1 || touch "$log.failed"; } &
  done
  wait
  for argument in "$@"; do
    log=$logs/$(basename "$argument")
    echo "-- $(basename "$argument")"
    tail -n 12 "$log"
    if [[ -e $log.failed ]]; then failed=1; fi
  done
  rm -r "$logs"
  return "$failed"
}

# The sdist, built in isolation and installed on the oldest and the newest Python that we promise; on the oldest
# with the oldest libraries, too.
stage_smoke() {
  "$VENV_PYTHON" -m pip install -q build
  "$VENV_PYTHON" -m build --sdist --outdir build/ci/dist
  tar -xzf build/ci/dist/weightlift-*.tar.gz -C build/ci/dist
  local version python venv libraries missing=()
  for version in "${SMOKE_PYTHONS[@]}"; do
    if ! python=$(python_of "$version"); then
      missing+=("$version")
      continue
    fi
    libraries=()
    [[ $version == "${SMOKE_PYTHONS[0]}" ]] && libraries=('numpy==1.23.*' 'ml_dtypes==0.5.0')
    venv=build/ci/venv-$version
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -q build/ci/dist/weightlift-*/ 'click>=8.1' 'rich>=13' pytest "${libraries[@]}"
    echo "-- Python $version with $("$venv/bin/python" -m pip list 2>/dev/null | grep -E '^(numpy|ml.dtypes) ' | xargs)"
    "$venv/bin/python" -m pytest -q --junitxml="build/ci/junit/smoke-$version.xml" tests/smoke
  done
  if ((${#missing[@]} == ${#SMOKE_PYTHONS[@]})); then skip "no Python ${missing[*]} on this machine"; fi
  if ((${#missing[@]})); then note "not on this machine, so not tested: Python ${missing[*]}"; fi
}

# python_of VERSION: prints an interpreter of that version, if there is one.
python_of() {
  local candidate
  for candidate in "python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python; do
    if "$candidate" -c "import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  return 1
}

# Every claim's program runs to its end, briefly; the figures of a busy CI machine mean nothing.
stage_bench() {
  local benches
  mapfile -t benches < <(grep -l __main__ bench/*.py)
  two_at_a_time bench_one "${benches[@]}"
  run_pytest micro bench/micro --benchmark-disable -n 0
}

# bench_one PROGRAM
bench_one() {
  timeout 600 "$VENV_PYTHON" "$1" --quick
}
