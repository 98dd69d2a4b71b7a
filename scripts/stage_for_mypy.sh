#!/bin/sh
# mypy takes a module's name from its folder, and three folders are installed elsewhere than they lie.
set -eu
stage=$1/minit2i_deploy
rm -rf "$1"
mkdir -p "$stage"
for entry in minit2i_deploy/* training export runtimes; do
    ln -s "$PWD/$entry" "$stage/"
done
