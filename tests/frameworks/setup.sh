#!/usr/bin/env bash
# Installs the frameworks that write and read weight files in the tests, each in a virtual environment of its own,
# outside the checkout: they ask for libraries that contradict each other. Does nothing for those that are there.
#
#   tests/frameworks/setup.sh [NAME…]     default: tensorflow mxnet jax
#
# Environment: WEIGHTLIFT_FRAMEWORKS  folder of the environments (default: weightlift/frameworks in the user's
#                                     cache folder); the tests look for them in the same place
#              PYTHON                 interpreter (default: python3); weightlift, as built for the tests, is
#                                     imported there, so it has to be of the same version
set -euo pipefail

folder=${WEIGHTLIFT_FRAMEWORKS:-${XDG_CACHE_HOME:-$HOME/.cache}/weightlift/frameworks}
python=${PYTHON:-python3}
common=(ml_dtypes)

install_tensorflow() {
  "$1" install -q tensorflow-cpu==2.21.0 keras==3.15.1 h5py "${common[@]}"
  "$1" install -q --no-deps tf_keras==2.21.0 # it asks for the package tensorflow, which has another name for the CPU
}
# The last release with wheels for a Python that is still in use; it needs an old NumPy.
install_mxnet() { "$1" install -q mxnet==1.9.1 numpy==1.23.5 "${common[@]}"; }
install_jax() {
  "$1" install -q 'jax[cpu]' flax dm-haiku optax orbax-checkpoint gguf onnx keras==3.15.1 h5py "${common[@]}"
}

[[ $# -gt 0 ]] || set -- tensorflow mxnet jax
failed=0
for name in "$@"; do
  environment=$folder/$name
  # The mark is written last, and again when what is installed by this script changes.
  mark=$("$python" --version; declare -f "install_$name"; printf '%s\n' "${common[@]}")
  if [[ $mark != "$(cat "$environment/installed" 2>/dev/null)" ]]; then
    "$python" -m venv --clear "$environment"
    if ! "install_$name" "$environment/bin/pip"; then
      echo "$name could not be installed: the tests against it will be skipped" >&2
      rm -rf "$environment"
      failed=1
      continue
    fi
    printf '%s\n' "$mark" >"$environment/installed"
  fi
  echo "$name is in $environment"
done
exit "$failed"
