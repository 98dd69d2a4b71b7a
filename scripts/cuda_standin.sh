#!/bin/sh
# Usage: cuda_standin.sh FOLDER [PYTHON]
# Make FOLDER with what runs ONNX Runtime's CUDA provider on a machine without a GPU:
#   site/    onnxruntime-gpu for PYTHON (default: python3), which stays out of its own packages
#   lib/     stand-ins for CUDA's libraries, compiled from tests/helpers/cuda_standin/src
#   cudnn/   the same for cuDNN, in a folder of its own so that it can be missing
# The packages come from pip, 260 MB the first time. A second call only compiles.
set -eu
folder=${1:?usage: cuda_standin.sh FOLDER [PYTHON]}
python=${2:-python3}
here=$(cd "$(dirname "$0")" && pwd)
source=$here/../tests/helpers/cuda_standin/src
# The provider asks for the libraries of this CUDA by name and version.
onnxruntime=onnxruntime-gpu==1.31.1
headers='nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88'

command -v cc >/dev/null || {
    echo 'a C compiler is missing; run: apt-get install gcc' >&2
    exit 1
}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }

# A folder appears complete or not at all.
if [ ! -d "$folder/include" ]; then
    rm -rf "$folder/headers"
    pip download --no-deps --dest "$folder/headers" $headers
    for wheel in "$folder"/headers/*.whl; do
        "$python" -m zipfile -e "$wheel" "$folder/headers"
    done
    mv "$folder/headers/nvidia/cu13/include" "$folder/include"
    rm -rf "$folder/headers"
fi
if [ ! -d "$folder/site" ]; then
    rm -rf "$folder/site.partial"
    pip install --no-deps --target "$folder/site.partial" "$onnxruntime"
    mv "$folder/site.partial" "$folder/site"
fi

# The name that C++ programs ask for.
for file in "$folder"/site/onnxruntime/capi/libonnxruntime.so.*.*; do
    ln -sf "${file##*/}" "$folder/site/onnxruntime/capi/libonnxruntime.so.1"
done

mkdir -p "$folder/lib" "$folder/cudnn"
# library NAME PLACE SOURCE...: names carry the library's own as their version, as NVIDIA's do.
library() {
    name=$1 place=$2
    shift 2
    echo "$name { global: *; };" > "$folder/$name.map"
    (cd "$source" && cc -shared -fPIC -O1 -std=gnu11 -Wall -Werror -isystem "$folder/include" \
        "$@" -Wl,-soname,"$name" -Wl,--version-script,"$folder/$name.map" -pthread \
        -o "$place/$name.partial")
    mv "$place/$name.partial" "$place/$name"
    rm "$folder/$name.map"
}
library libcudart.so.13 "$folder/lib" log.c device.c memory.c kernels.c capture.c
cudart=$folder/lib/libcudart.so.13
library libcublas.so.13 "$folder/lib" blas.c "$cudart"
library libcublasLt.so.13 "$folder/lib" blas.c "$cudart"
library libcuda.so.1 "$folder/lib" driver.c driver_devices.c "$cudart"
library libcurand.so.10 "$folder/lib" driver.c "$cudart"
library libcudnn.so.9 "$folder/cudnn" cudnn.c "$cudart"
