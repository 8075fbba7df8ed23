#!/usr/bin/env bash
# The worked example, from nothing to a scored model. Overrides go to the last program, the training:
#
#     bash scripts/run.sh
#     bash scripts/run.sh learning_rate=0.002
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The programs to run, in this order: put your own here.
programs=(src/dataset/dataset01/mnist.py src/feature/feature01/mnist_tensors.py src/model/model01/image_classifier_models.py)

for program in "${programs[@]}"; do
    [ -f "$program" ] && continue
    echo "run: there is no $program: name the programs of this project in the line programs=(…) of scripts/run.sh" >&2
    exit 2
done
bash scripts/setup.sh
export PYTHONPATH=$PWD
python=${JIKKEN_VENV:-.venv}/bin/python
last=$((${#programs[@]} - 1))
for program in "${programs[@]:0:last}"; do
    "$python" "$program"
done
exec "$python" "${programs[last]}" "$@"
