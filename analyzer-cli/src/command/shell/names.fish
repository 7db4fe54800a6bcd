
# Names come from the input that the command line names so far. A cluster is never asked.
function __fish_netpol_analyze_names
    set -l typed (commandline -opc)
    set -l input
    for i in (seq 2 (count $typed))
        switch $typed[$i]
            case -f --file -k --kustomize --helm --values --snapshot --overlay
                set -a input $typed[$i] $typed[(math $i + 1)]
            case '--file=*' '--kustomize=*' '--helm=*' '--values=*' '--snapshot=*' '--overlay=*'
                set -a input $typed[$i]
        end
    end
    command $typed[1] $input names $argv 2>/dev/null
end

complete -c netpol-analyze -s n -l namespace -x -a "(__fish_netpol_analyze_names --namespaces)"
complete -c netpol-analyze -n "__fish_netpol_analyze_using_subcommand reach why explain exposure" -f -a "(__fish_netpol_analyze_names)"
complete -c netpol-analyze -n "__fish_netpol_analyze_using_subcommand exposure" -l controller -x -a "(__fish_netpol_analyze_names)"
