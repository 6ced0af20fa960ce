# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_handover_global_optspecs
    string join \n name= runtime-dir= state-dir= c/config= t s= v/version V h/help
end

function __fish_handover_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_handover_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_handover_using_subcommand
    set -l cmd (__fish_handover_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c handover -n "__fish_handover_needs_command" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_needs_command" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_needs_command" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_needs_command" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_needs_command" -s s -d 'stop and quit: as `stop`; reload; reopen: log files (nginx)' -r -f -a "stop\t''
quit\t''
reload\t''
reopen\t''"
complete -c handover -n "__fish_handover_needs_command" -s t -d 'As `check` (nginx)'
complete -c handover -n "__fish_handover_needs_command" -s v -l version -d 'The version'
complete -c handover -n "__fish_handover_needs_command" -s V -d 'The version, and what matters about this build'
complete -c handover -n "__fish_handover_needs_command" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_needs_command" -f -a "check" -d 'Read the configuration and what it names, say what would be served'
complete -c handover -n "__fish_handover_needs_command" -f -a "cert" -d 'Make a certificate that signs itself, for a first try of TLS'
complete -c handover -n "__fish_handover_needs_command" -f -a "upgrade" -d 'Run what is on disk now, without failing a request'
complete -c handover -n "__fish_handover_needs_command" -f -a "apply" -d 'Make what is on disk be what runs: upgrade or reload (systemctl reload)'
complete -c handover -n "__fish_handover_needs_command" -f -a "deploy" -d 'Make DIR the release of the hosted application, without failing a request'
complete -c handover -n "__fish_handover_needs_command" -f -a "commit" -d 'Make the upgrade final now'
complete -c handover -n "__fish_handover_needs_command" -f -a "rollback" -d 'Go back to what ran before'
complete -c handover -n "__fish_handover_needs_command" -f -a "wait" -d 'Wait until an upgrade is final: exit 0 committed, 1 not, 75 not yet'
complete -c handover -n "__fish_handover_needs_command" -f -a "list" -d 'The services of this program on this host, and what they run'
complete -c handover -n "__fish_handover_needs_command" -f -a "reload" -d 'Take the configuration anew'
complete -c handover -n "__fish_handover_needs_command" -f -a "stop" -d 'Finish what is in flight and leave'
complete -c handover -n "__fish_handover_needs_command" -f -a "status" -d 'Who owns the service, and how it is'
complete -c handover -n "__fish_handover_needs_command" -f -a "history" -d 'The upgrades there were'
complete -c handover -n "__fish_handover_needs_command" -f -a "run" -d 'Be the service, in the foreground'
complete -c handover -n "__fish_handover_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c handover -n "__fish_handover_using_subcommand check" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand check" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand check" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand check" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand check" -l preflight -d 'By a master, of its successor'
complete -c handover -n "__fish_handover_using_subcommand check" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand cert" -l directory -d 'Where it goes [default: `tls` beside the configuration file]' -r -F
complete -c handover -n "__fish_handover_using_subcommand cert" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand cert" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand cert" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand cert" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand cert" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand upgrade" -l binary -d 'Put this file in place first; it is on trial until it has proved itself' -r -F
complete -c handover -n "__fish_handover_using_subcommand upgrade" -l probation -d 'How long the way back stays open, such as 60s or 10m; 0s commits at once' -r
complete -c handover -n "__fish_handover_using_subcommand upgrade" -l until -d 'Come back when the successor owns the service, or when it is final' -r -f -a "takeover\t''
commit\t''"
complete -c handover -n "__fish_handover_using_subcommand upgrade" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand upgrade" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand upgrade" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand upgrade" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand upgrade" -l hold -d 'Both generations accept until `commit`, `rollback` or a signal says more'
complete -c handover -n "__fish_handover_using_subcommand upgrade" -l supersede -d 'A successor still in probation is taken back first'
complete -c handover -n "__fish_handover_using_subcommand upgrade" -l end-oldest -d 'When too many generations drain, end the oldest: what it holds is cut'
complete -c handover -n "__fish_handover_using_subcommand upgrade" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand apply" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand apply" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand apply" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand apply" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand apply" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand deploy" -l probation -d 'How long the way back stays open, such as 60s or 10m; 0s commits at once' -r
complete -c handover -n "__fish_handover_using_subcommand deploy" -l until -d 'Come back when the release serves, or when it is final' -r -f -a "takeover\t''
commit\t''"
complete -c handover -n "__fish_handover_using_subcommand deploy" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand deploy" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand deploy" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand deploy" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand deploy" -l supersede -d 'A release still in probation is taken back first'
complete -c handover -n "__fish_handover_using_subcommand deploy" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand commit" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand commit" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand commit" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand commit" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand commit" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand rollback" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand rollback" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand rollback" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand rollback" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand rollback" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand wait" -l version -d 'Until this version serves for good, also by an upgrade that has not begun' -r
complete -c handover -n "__fish_handover_using_subcommand wait" -l timeout -d 'How long, such as 5m; then exit 75' -r
complete -c handover -n "__fish_handover_using_subcommand wait" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand wait" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand wait" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand wait" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand wait" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand list" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand list" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand list" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand list" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand list" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand reload" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand reload" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand reload" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand reload" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand reload" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand stop" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand stop" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand stop" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand stop" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand stop" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand status" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand status" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand status" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand status" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand status" -l json -d 'The document itself'
complete -c handover -n "__fish_handover_using_subcommand status" -l watch -d 'Again whenever something happens'
complete -c handover -n "__fish_handover_using_subcommand status" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand history" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand history" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand history" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand history" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand history" -l json -d 'One JSON document a line'
complete -c handover -n "__fish_handover_using_subcommand history" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand run" -l listen -d 'Listen here instead of where the configuration says' -r
complete -c handover -n "__fish_handover_using_subcommand run" -l workers -d 'Worker processes: a number, or "auto" for one a core' -r
complete -c handover -n "__fish_handover_using_subcommand run" -l root -d 'Serve this directory' -r -F
complete -c handover -n "__fish_handover_using_subcommand run" -l app -d 'Host the application of this directory' -r -F
complete -c handover -n "__fish_handover_using_subcommand run" -l name -d 'Which service [default: this program\'s name]' -r
complete -c handover -n "__fish_handover_using_subcommand run" -l runtime-dir -d 'Where its socket and pid files are [default: $RUNTIME_DIRECTORY, /run/NAME, $XDG_RUNTIME_DIR/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand run" -l state-dir -d 'Where its history is [default: $STATE_DIRECTORY, /var/lib/NAME, $XDG_STATE_HOME/NAME]' -r -F
complete -c handover -n "__fish_handover_using_subcommand run" -s c -l config -d 'Its configuration [default: /etc/NAME/NAME.toml, if there is one]' -r -F
complete -c handover -n "__fish_handover_using_subcommand run" -s h -l help -d 'Print help'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "check" -d 'Read the configuration and what it names, say what would be served'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "cert" -d 'Make a certificate that signs itself, for a first try of TLS'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "upgrade" -d 'Run what is on disk now, without failing a request'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "apply" -d 'Make what is on disk be what runs: upgrade or reload (systemctl reload)'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "deploy" -d 'Make DIR the release of the hosted application, without failing a request'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "commit" -d 'Make the upgrade final now'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "rollback" -d 'Go back to what ran before'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "wait" -d 'Wait until an upgrade is final: exit 0 committed, 1 not, 75 not yet'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "list" -d 'The services of this program on this host, and what they run'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "reload" -d 'Take the configuration anew'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "stop" -d 'Finish what is in flight and leave'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "status" -d 'Who owns the service, and how it is'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "history" -d 'The upgrades there were'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "run" -d 'Be the service, in the foreground'
complete -c handover -n "__fish_handover_using_subcommand help; and not __fish_seen_subcommand_from check cert upgrade apply deploy commit rollback wait list reload stop status history run help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
