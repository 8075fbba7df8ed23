#!/usr/bin/env bash
# The worked example, from nothing to a scored model. Overrides go to the training:
#
#     bash scripts/run.sh
#     bash scripts/run.sh learning_rate=0.002
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
export PYTHONPATH=$PWD
.venv/bin/python src/dataset/dataset01/mnist.py
.venv/bin/python src/feature/feature01/mnist_tensors.py
exec .venv/bin/python src/model/model01/image_classifier_models.py "$@"
