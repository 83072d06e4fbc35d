# Written by: _UADCTL_COMPLETE=source_bash uadctl
_uadctl_completion() {
    local IFS=$'
'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \
                   COMP_CWORD=$COMP_CWORD \
                   _UADCTL_COMPLETE=complete_bash $1 ) )
    return 0
}

complete -o default -F _uadctl_completion uadctl
