# Completes experiments and `lab` in bash and zsh; scripts/completion.fish does it in fish.
#
#     bash scripts/completion.sh install        # in every new shell (bash, zsh, fish), for all projects; uninstall
#     source scripts/completion.sh              # in this shell (bash, zsh)
#
# `bash scripts/completion.sh query LINE` prints the completions of the last word of a command line, one
# a line, and fails where the line runs neither an experiment nor lab. It uses the .venv beside the program.

query() {
    local word current="" program="" words=()
    case $1 in *[[:blank:]]) ;; *) current=${1##*[[:blank:]]} ;; esac
    set -f
    for word in ${1%"$current"}; do
        if [ -n "$program" ]; then
            words+=("$word")
        elif [[ $word == *.py || ${word##*/} == lab ]]; then
            program=${word/#\~/$HOME}
        fi
    done
    case $program in
        *.py) grep -q '^@experiment' "$program" 2>/dev/null && query_experiment ;;
        *lab) query_lab ;;
        *) return 1 ;;
    esac | while IFS= read -r word; do
        [[ $word != "$current"* ]] || printf '%s\n' "$word"
    done
    return "${PIPESTATUS[0]}"
}

# Hydra completes. It gets the overrides that choose a config group or a plain value, but no quoted text and
# no ranges, which its completion can't parse.
query_experiment() {
    local word python known=()
    for word in ${words[@]+"${words[@]}"}; do
        [[ ! $word =~ ^(-m|--multirun|[+~]?[A-Za-z0-9_/@.]+=[A-Za-z0-9_./-]*)$ ]] || known+=("$word")
    done
    python=$(dirname "$program")/../../../.venv/bin/python
    [ -x "$python" ] || python=python
    COMP_LINE="program ${known[*]} $current" "$python" "$program" -sc query=fish 2>/dev/null
}

query_lab() {
    [ -x "$program" ] || program=.venv/bin/lab # as after `poetry run`
    [ -x "$program" ] || program=$(command -v lab) || return
    _LAB_COMPLETE=complete_bash COMP_WORDS="lab ${words[*]} $current" COMP_CWORD=$((${#words[@]} + 1)) \
        "$program" 2>/dev/null
}

# Adds the one line to the file that the user's shell reads when it starts, or removes it.
install() {
    local mark="# completion of experiments and lab" folder file script line before=""
    folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    script=$(printf %q "$folder/completion.sh")
    line="[ ! -f $script ] || source $script"
    case ${SHELL##*/} in
        bash) file=$HOME/.bashrc ;;
        zsh) file=${ZDOTDIR:-$HOME}/.zshrc ;;
        fish)
            file=${XDG_CONFIG_HOME:-$HOME/.config}/fish/config.fish
            script=${script%.sh}.fish
            line="test ! -f $script; or source $script"
            ;;
        *) echo "completion: your shell (${SHELL:-none}) is not bash, zsh or fish" >&2 && return 2 ;;
    esac
    mkdir -p "$(dirname "$file")" && touch "$file" || return
    before=$(grep -vF "$mark" "$file")
    printf '%s' "$before${before:+$'\n'}" >"$file" || return
    if [ "$1" = uninstall ]; then
        echo "$file has no line for completion any more"
        return
    fi
    echo "$line  $mark" >>"$file"
    echo "$file has this line now:"
    echo "  $line"
    echo "In this shell: source ${script#"$PWD/"}; to undo it: bash scripts/completion.sh uninstall"
}

case ${1:-} in
    query)
        query "$2"
        exit
        ;;
    install | uninstall)
        install "$1"
        exit
        ;;
esac

if [ -n "${ZSH_VERSION:-}" ]; then
    eval '
    _jikken_script=${${(%):-%x}:A}
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
    typeset -gA _jikken_before
    _jikken() {
        local -a found
        found=(${(f)"$(bash $_jikken_script query "${(j: :)words[1,CURRENT]}")"})
        if (( $#found )); then
            compadd -Q -S "" -a found
        else
            ${_jikken_before[$service]:-_default}
        fi
    }
    for _jikken_command in python python3 poetry lab; do
        [[ ${_comps[$_jikken_command]:-} == _jikken ]] || _jikken_before[$_jikken_command]=${_comps[$_jikken_command]:-}
    done
    compdef _jikken python python3 poetry lab'
else
    _jikken_script=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/completion.sh
    _jikken() {
        local line=${COMP_LINE:0:COMP_POINT} found before current
        if ! found=$(bash "$_jikken_script" query "$line"); then
            before=_jikken_before_${1##*/}
            [ -z "${!before:-}" ] || "${!before}" "$@"
            return
        fi
        mapfile -t COMPREPLY < <(printf "${found:+%s\n}" "$found")
        [[ ! $found =~ [=./]($'\n'|$) ]] || compopt -o nospace 2>/dev/null
        if [[ $COMP_WORDBREAKS == *=* ]]; then # bash replaces only the part after the last =
            current=${line##*[[:blank:]]}
            COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*=}"}"}")
        fi
    }
    for _jikken_command in python python3 poetry lab; do
        _jikken_rule=$(complete -p "$_jikken_command" 2>/dev/null)
        if [[ $_jikken_rule =~ -F\ ([^ ]+) && ${BASH_REMATCH[1]} != _jikken ]]; then
            printf -v "_jikken_before_$_jikken_command" %s "${BASH_REMATCH[1]}"
        fi
        complete -o default -F _jikken "$_jikken_command"
    done
fi
unset -f query query_experiment query_lab install
