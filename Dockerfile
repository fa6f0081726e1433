# syntax=docker/dockerfile:1
# One file, two variants, by the index that PyTorch's page names for its CPU and CUDA builds:
#   docker build --tag meddap:cuda .                                  # pip's own index: CUDA; run with --gpus all
#   docker build --tag meddap --build-arg TORCH_INDEX=ADDRESS .       # PyTorch's index of CPU builds
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" meddap demo --output demo
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HUB_OFFLINE=1 HOME=/tmp
WORKDIR /source
COPY constraints.txt ./
# an empty variable is none to pip
RUN PIP_INDEX_URL="${TORCH_INDEX}" python -m pip install --constraint constraints.txt torch
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY meddap_monai meddap_monai
COPY bundles bundles
COPY configs configs
RUN python -m pip install --constraint constraints.txt '.[codecs]'
WORKDIR /work
USER 1000
ENTRYPOINT ["meddap"]
CMD ["--help"]
