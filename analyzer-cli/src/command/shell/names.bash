
# Names come from the input that the command line names so far. A cluster is never asked.
_netpol_analyze_names() {
    local -a input=()
    local i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${COMP_WORDS[i]}" in
            -f|--file|-k|--kustomize|--helm|--values|--snapshot|--overlay)
                [[ $((i + 1)) -lt COMP_CWORD ]] && input+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}")
                ;;
        esac
    done
    "${COMP_WORDS[0]}" "${input[@]}" names "$@" 2>/dev/null
}

_netpol_analyze_completed() {
    local current="${COMP_WORDS[COMP_CWORD]}" word
    case "${COMP_WORDS[COMP_CWORD - 1]}" in
        -n|--namespace)
            mapfile -t COMPREPLY < <(compgen -W "$(_netpol_analyze_names --namespaces)" -- "$current")
            return
            ;;
    esac
    WORDS_OF_THE_COMMAND_LINE "$@"
    [[ "$current" == -* ]] && return
    case "${COMP_WORDS[COMP_CWORD - 1]}" in
        --controller|[!-]*) ;;
        *) return ;;
    esac
    for word in "${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
        case "$word" in
            reach|why|explain|exposure)
                mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$(_netpol_analyze_names)" -- "$current")
                return
                ;;
        esac
    done
}

complete -F _netpol_analyze_completed -o bashdefault -o default netpol-analyze
