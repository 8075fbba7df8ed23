# The project in a container: the packages of poetry.lock in the image; your code, data and runs in your folder.
#
#     docker build -t project .
#     docker run --rm -it --init --ipc=host -u "$(id -u):$(id -g)" -v "$PWD:/work" project \
#         python src/model/model01/image_classifier_models.py
#
# One image for CPU and CUDA: torch's wheels for Linux have CUDA in them. With NVIDIA's container toolkit,
# `--gpus all` before the name of the image is all that a GPU needs. A .venv in your folder stays as it is.
#
# The code is in the image, too, with its git history: workers on Kubernetes run it, and their runs record its commit.
#
#     docker build -t registry.example/project . && docker push registry.example/project
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# git: runs record their commit; libgomp1: LightGBM needs it
RUN apt-get update && apt-get install --yes --no-install-recommends git libgomp1 && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'

# Packages come before the code: this layer is made again only when one of these files has changed.
ARG PIP_INDEX_URL
WORKDIR /opt/project
COPY pyproject.toml poetry.lock poetry.toml ./
COPY scripts/setup.sh scripts/relocate.py scripts/
RUN mkdir src && touch src/__init__.py README.md && bash scripts/setup.sh && rm -rf .poetry /root/.cache

# Any user may run it (-u), also one without a name; JIKKEN_VENV: the scripts use these packages.
RUN useradd --create-home me && chmod 1777 /home/me
ENV HOME=/home/me USER=me JIKKEN_VENV=/opt/project/.venv PATH="/opt/project/.venv/bin:$PATH" PYTHONPATH=/work \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --chown=me . /work
USER me
WORKDIR /work
CMD ["bash"]
