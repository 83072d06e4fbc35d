# Written by: _UADCTL_COMPLETE=source_fish uadctl
complete --command uadctl --no-files --arguments "(env _UADCTL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS=(commandline -cp) uadctl)" --condition "env _UADCTL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=is-args _TYPER_COMPLETE_ARGS=(commandline -cp) uadctl"
