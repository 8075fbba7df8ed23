#!/usr/bin/env bash
# Called by copier in a new project: the model to begin with, if there are no examples, and the first commit.
#
#     bash template/start.sh examples|minimal
set -euo pipefail

if [ "$1" = minimal ]; then
    mkdir -p src/model config/model
    cp -r template/minimal/src/model/model01 src/model
    cp -r template/minimal/config/model/model01 config/model
fi

[ -e .git ] && exit # a repository was there before: its commits are its owner's
git init --quiet --initial-branch=main
git add .
if git -c user.useConfigOnly=true var GIT_AUTHOR_IDENT >/dev/null 2>&1; then
    git commit --quiet --no-verify --message "Start"
else
    echo "There is no commit yet, since git doesn't know you: git config --global user.name NAME; git config" \
        "--global user.email ADDRESS; git commit -m Start" >&2
fi
