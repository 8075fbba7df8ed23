# Completes experiments and `lab` in fish; scripts/completion.sh does it in bash and zsh.
#
#     source scripts/completion.fish
#     bash scripts/completion.sh install        # in every new shell
set -g _jikken_script (realpath (dirname (status filename)))/completion.sh

function _jikken
    bash $_jikken_script query (commandline -cp)
end

for command in python python3 poetry lab
    complete -c $command -a '(_jikken)'
end
