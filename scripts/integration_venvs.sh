#!/usr/bin/env bash
# Interpreters with the libraries that read what minit2i writes, one each, because they need
# different versions of transformers: integration_venvs.sh DIR
#
#   scripts/integration_venvs.sh build/libraries
#   pytest -m integrations tests/integrations --libraries build/libraries
set -euo pipefail

folder=${1:?usage: integration_venvs.sh DIR}
python=${PYTHON:-python3}

# Name of a test's program, then what pip installs.
make_venv() {
    local name=$1
    shift
    [[ -x $folder/$name/bin/python ]] || "$python" -m venv "$folder/$name"
    "$folder/$name/bin/pip" install --quiet "$@"
}

make_venv fastembed fastembed==0.9.1
make_venv gguf gguf==0.19.0 safetensors
make_venv sentence-transformers sentence-transformers==6.2.0 onnxruntime
make_venv txtai txtai==9.14.0 onnxruntime
make_venv diffusers diffusers==0.42.1 transformers==5.24.0 torch onnxruntime pillow jaxtyping
make_venv langchain langchain-openai==1.7.4 numpy
make_venv ray "ray[data]==2.60.0" onnxruntime pillow jaxtyping pyarrow tokenizers webdataset
