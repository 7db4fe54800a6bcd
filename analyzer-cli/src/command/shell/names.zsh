
# Names come from the input that the command line names so far. A cluster is never asked.
_netpol-analyze_names() {
    local -a typed=("${(@Q)${(@z)LBUFFER}}") input=()
    local -i start=${typed[(I)*(netpol-analyze|kubectl-netpol)]} i
    for ((i = start + 1; i < $#typed; i++)); do
        case "$typed[i]" in
            (-f|--file|-k|--kustomize|--helm|--values|--snapshot|--overlay)
                input+=("$typed[i]" "$typed[i + 1]")
                ;;
            (--(file|kustomize|helm|values|snapshot|overlay)=*)
                input+=("$typed[i]")
                ;;
        esac
    done
    "${typed[start]:-netpol-analyze}" $input names "$@" 2>/dev/null
}

_netpol-analyze_ends() {
    local -a names=(${(f)"$(_netpol-analyze_names)"})
    compadd "$@" -- $names
}

_netpol-analyze_namespaces() {
    local -a names=(${(f)"$(_netpol-analyze_names --namespaces)"})
    compadd "$@" -- $names
}
