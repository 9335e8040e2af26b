#!/usr/bin/env bash
# Installs the TensorFlow.js that the interoperation tests run, outside the checkout; does nothing when it is there.
#
# Environment: WEIGHTLIFT_NODE  folder to install into (default: weightlift/node in the user's cache folder);
#                               the tests look for it in the same place
set -euo pipefail

version=4.22.0
folder=${WEIGHTLIFT_NODE:-${XDG_CACHE_HOME:-$HOME/.cache}/weightlift/node}
package=$folder/node_modules/@tensorflow/tfjs/package.json

if [[ -e $package ]] && grep -q "\"version\": \"$version\"" "$package"; then
  echo "TensorFlow.js $version is in $folder"
  exit
fi
command -v npm >/dev/null || {
  echo "npm is needed" >&2
  exit 1
}
mkdir -p "$folder"
[[ -e $folder/package.json ]] || echo '{"private": true}' >"$folder/package.json"
npm install --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel=error "@tensorflow/tfjs@$version"
echo "TensorFlow.js $version is in $folder"
