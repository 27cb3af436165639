# fish completion for kgcore: made by "kgcore completion fish", do not edit

# The command on the line. The first operand is one if it is called like one.
function __kgcore_command
    set -l words (commandline -opc)
    set -e words[1]
    set -l skip 0
    for word in $words
        if test $skip = 1
            set skip 0
            continue
        end
        switch $word
            case -v -c --core --qemu -s --symbols --symbols-from --debug-directory --kernel-directory --vmcoreinfo --architecture --match --uid -f --exclude --only --redact --profile --missing -D -o --sysroot --report --compress --jobs --max-size --max-time --limit --progress --swap --root
                set skip 1
            case '-*'
            case live daemon ask filter ps files info map check bt debug client restart completion
                echo $word
                return
            case '*'
                echo operand
                return
        end
    end
end

# Whether the line has this command, or, without one, none.
function __kgcore_has
    set -l command (__kgcore_command)
    if test "$command" = operand
        set command default
    else if test -z "$command"
        set command default
    end
    test $command = $argv[1]
end

# Whether the next operand may be a command.
function __kgcore_first
    set -l command (__kgcore_command)
    test -z "$command"
end

# The processes of the dump that the line names, if it opens quickly: no word of it is evaluated.
function __kgcore_processes
    set -l words (commandline -opc)
    set -l limit 1.5
    if set -q KGCORE_COMPLETION_TIMEOUT
        set limit $KGCORE_COMPLETION_TIMEOUT
    end
    command timeout -s KILL $limit $words[1] completion processes -- $words[2..-1] </dev/null 2>/dev/null
end

complete -c kgcore -e
complete -c kgcore -f
complete -c kgcore -n __kgcore_first -a live -d 'Write processes of this machine as core files, and let them go on'
complete -c kgcore -n __kgcore_first -a daemon -d 'Write the cores of programs that ask for them, and let them go on'
complete -c kgcore -n __kgcore_first -a ask -d 'Have the daemon (kgcore daemon) write the core of a process, which goes on'
complete -c kgcore -n __kgcore_first -a filter -d 'Write a finished core anew, with less in it'
complete -c kgcore -n __kgcore_first -a ps -d 'List the processes in a vmcore'
complete -c kgcore -n __kgcore_first -a files -d 'List the open files of a process in a vmcore, or write the content of one'
complete -c kgcore -n __kgcore_first -a info -d 'Say what a vmcore is, what it holds, and what that means for cores'
complete -c kgcore -n __kgcore_first -a map -d 'Show the address space of a process: its mappings, what the filter keeps of each, and how much of their memory the dump has'
complete -c kgcore -n __kgcore_first -a check -d 'Read a finished core, or the files that --sysroot wrote, and check that they are complete'
complete -c kgcore -n __kgcore_first -a bt -d 'Show backtraces of processes in a vmcore'
complete -c kgcore -n __kgcore_first -a debug -d 'Write the core, program and libraries of a process in a vmcore, and start a debugger on them'
complete -c kgcore -n __kgcore_first -a client -d 'Give C programs what they dump themselves with, through kgcore daemon'
complete -c kgcore -n __kgcore_first -a restart -d 'Let a process go on from its core, where it was'
complete -c kgcore -n __kgcore_first -a completion -d 'Print a shell script that completes options, commands, files and PIDs of kgcore'

complete -c kgcore -n '__kgcore_has default' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has default' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has default' -s v -x -d 'sum of 1 progress, 2 library errors, 4 page faults (default 4)'
complete -c kgcore -n '__kgcore_has default' -s c -l core -r -F -d 'the vmcore (default: $KGCORE_VMCORE, else ./vmcore); repeat -c for each file of a split set'
complete -c kgcore -n '__kgcore_has default' -s k -l kernel -d 'the running kernel'
complete -c kgcore -n '__kgcore_has default' -l qemu -r -F -d 'a QEMU guest, by its QMP socket: a path or host:port'
complete -c kgcore -n '__kgcore_has default' -s s -l symbols -r -F -d 'vmlinux, a module\'s debug file, raw BTF or a System.map; may be repeated (default: searched for)'
complete -c kgcore -n '__kgcore_has default' -l symbols-from -x -a 'auto dwarf btf' -d 'take types and symbols from debug information (dwarf) or from the dump itself (btf) (default: auto)'
complete -c kgcore -n '__kgcore_has default' -l debug-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for debug information; may be repeated'
complete -c kgcore -n '__kgcore_has default' -l kernel-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for the kernel image and modules; may be repeated'
complete -c kgcore -n '__kgcore_has default' -l vmcoreinfo -r -F -d 'use this VMCOREINFO instead of the dump\'s: a file, or a physical address (0x...) in the dump'
complete -c kgcore -n '__kgcore_has default' -l architecture -x -a 'x86_64 i386' -d 'if the dump does not say: x86_64 or i386'
complete -c kgcore -n '__kgcore_has default' -l all -d 'every process that has memory'
complete -c kgcore -n '__kgcore_has default' -l match -x -d 'those whose name (COMM), or the base name of whose program (argv[0]), fits a pattern such as \'nginx*\'; may be given more than once'
complete -c kgcore -n '__kgcore_has default' -l uid -x -d 'those of this real user id; may be given more than once; with --match both must hold'
complete -c kgcore -n '__kgcore_has default' -s f -x -a 'process' -d 'which memory: sum of the bits below, or \'process\' (default 51)'
complete -c kgcore -n '__kgcore_has default' -l dontdump -d 'also memory marked MADV_DONTDUMP'
complete -c kgcore -n '__kgcore_has default' -l dax -d 'also DAX mappings'
complete -c kgcore -n '__kgcore_has default' -l exclude -x -d 'leave out memory: name:GLOB ([heap] or a file\'s name), file:GLOB, size:>1G or addr:START-END; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has default' -l only -x -d 'leave out all memory that no rule names; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has default' -l redact -x -d 'write zeros in the place of memory, and say so in the report; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has default' -l profile -x -a 'full mini' -d 'mini: of that memory only stacks, thread-local storage and what else backtraces need (default: full)'
complete -c kgcore -n '__kgcore_has default' -l missing -x -a 'omit zero' -d 'what to do with memory that the dump lacks: omit it, so that debuggers cannot read it, or write zeros (default: omit)'
complete -c kgcore -n '__kgcore_has default' -l no-kgcore-note -d 'omit the note that lists what is missing and why'
complete -c kgcore -n '__kgcore_has default' -l no-state -d 'omit from that note what the process had of the kernel: signal actions, timers, limits, what is in pipes and other descriptors'
complete -c kgcore -n '__kgcore_has default' -l share-zeros -d 'let long ranges that were never touched share one range of zeros in the file (done unasked where the file would be longer than file systems allow)'
complete -c kgcore -n '__kgcore_has default' -s D -x -a '(__fish_complete_directories (commandline -ct))' -d 'write core.<tgid> there'
complete -c kgcore -n '__kgcore_has default' -s o -r -F -d 'write one core to FILE; -: standard output'
complete -c kgcore -n '__kgcore_has default' -l sysroot -x -a '(__fish_complete_directories (commandline -ct))' -d 'also write the program, its interpreter and its libraries there, for gdb\'s set sysroot'
complete -c kgcore -n '__kgcore_has default' -l force -d 'overwrite files'
complete -c kgcore -n '__kgcore_has default' -l dry-run -d 'show what would be written, and write nothing'
complete -c kgcore -n '__kgcore_has default' -l report -r -F -d 'write what was saved and what is missing, as JSON; -: standard output'
complete -c kgcore -n '__kgcore_has default' -l compress -x -a 'zstd gzip' -d 'write core.<tgid>.zst or .gz, or compress what -o gets'
complete -c kgcore -n '__kgcore_has default' -l jobs -x -d 'processes that read and compress side by side (default: as many as there are CPUs to use)'
complete -c kgcore -n '__kgcore_has default' -l max-size -x -d 'write at most so many bytes of cores in all (K, M, G, T: powers of 1024), what matters most first'
complete -c kgcore -n '__kgcore_has default' -l max-time -x -d 'write for at most so many seconds in all (or m, h), what matters most first'
complete -c kgcore -n '__kgcore_has default' -l limit -x -a 'priority largest-first truncate' -d 'what the two cost first: what matters least, the ends of the largest mappings, or the end of the file as the kernel has it (default: priority)'
complete -c kgcore -n '__kgcore_has default' -l progress -x -a 'auto never json' -d 'auto: a bar with -v 1 on a terminal; json: lines for programs on standard error (default: auto)'
complete -c kgcore -n '__kgcore_has default' -l swap -r -F -d 'image of a swap device or swap file, named as in /proc/swaps; may be repeated'
complete -c kgcore -n '__kgcore_has default' -l root -x -a '(__fish_complete_directories (commandline -ct))' -d 'take missing pages of mapped files from the same files under DIR'
complete -c kgcore -n '__kgcore_has default' -k -a '(__kgcore_processes)'

complete -c kgcore -n '__kgcore_has live' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has live' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has live' -s v -x -d 'sum of 1 progress, 2 library errors, 4 page faults (default 4)'
complete -c kgcore -n '__kgcore_has live' -l freeze -x -a 'auto fork stop' -d 'fork: read a copy of it while it goes on; stop: it stands still until the last byte is read; auto: a copy where one is possible and right (default: auto)'
complete -c kgcore -n '__kgcore_has live' -l shared -x -a 'copy late' -d 'with a copy, when to read shared memory: copy: while it stands still; late: with the rest, so that it may be newer (default: copy)'
complete -c kgcore -n '__kgcore_has live' -l no-registers -d 'stop nothing and read no registers: for a process that is traced already or does not stop; its memory may be torn'
complete -c kgcore -n '__kgcore_has live' -l max-freeze -x -d 'give up, and write nothing, if it has to stand still for more than so many seconds (or ms, m, h); default: as long as it takes, but 5 until all its threads have stopped'
complete -c kgcore -n '__kgcore_has live' -l all -d 'every process that has memory'
complete -c kgcore -n '__kgcore_has live' -l match -x -d 'those whose name (COMM), or the base name of whose program (argv[0]), fits a pattern such as \'nginx*\'; may be given more than once'
complete -c kgcore -n '__kgcore_has live' -l uid -x -d 'those of this real user id; may be given more than once; with --match both must hold'
complete -c kgcore -n '__kgcore_has live' -s f -x -a 'process' -d 'which memory: sum of the bits below, or \'process\' (default 51)'
complete -c kgcore -n '__kgcore_has live' -l dontdump -d 'also memory marked MADV_DONTDUMP'
complete -c kgcore -n '__kgcore_has live' -l dax -d 'also DAX mappings'
complete -c kgcore -n '__kgcore_has live' -l exclude -x -d 'leave out memory: name:GLOB ([heap] or a file\'s name), file:GLOB, size:>1G or addr:START-END; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has live' -l only -x -d 'leave out all memory that no rule names; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has live' -l redact -x -d 'write zeros in the place of memory, and say so in the report; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has live' -l profile -x -a 'full mini' -d 'mini: of that memory only stacks, thread-local storage and what else backtraces need (default: full)'
complete -c kgcore -n '__kgcore_has live' -l missing -x -a 'omit zero' -d 'what to do with memory that the dump lacks: omit it, so that debuggers cannot read it, or write zeros (default: omit)'
complete -c kgcore -n '__kgcore_has live' -l no-kgcore-note -d 'omit the note that lists what is missing and why'
complete -c kgcore -n '__kgcore_has live' -l no-state -d 'omit from that note what the process had of the kernel: signal actions, timers, limits, what is in pipes and other descriptors'
complete -c kgcore -n '__kgcore_has live' -l share-zeros -d 'let long ranges that were never touched share one range of zeros in the file (done unasked where the file would be longer than file systems allow)'
complete -c kgcore -n '__kgcore_has live' -s D -x -a '(__fish_complete_directories (commandline -ct))' -d 'write core.<tgid> there'
complete -c kgcore -n '__kgcore_has live' -s o -r -F -d 'write one core to FILE; -: standard output'
complete -c kgcore -n '__kgcore_has live' -l sysroot -x -a '(__fish_complete_directories (commandline -ct))' -d 'also write the program, its interpreter and its libraries there, for gdb\'s set sysroot'
complete -c kgcore -n '__kgcore_has live' -l force -d 'overwrite files'
complete -c kgcore -n '__kgcore_has live' -l dry-run -d 'show what would be written, and write nothing'
complete -c kgcore -n '__kgcore_has live' -l report -r -F -d 'write what was saved and what is missing, as JSON; -: standard output'
complete -c kgcore -n '__kgcore_has live' -l compress -x -a 'zstd gzip' -d 'write core.<tgid>.zst or .gz, or compress what -o gets'
complete -c kgcore -n '__kgcore_has live' -l jobs -x -d 'processes that read and compress side by side (default: as many as there are CPUs to use)'
complete -c kgcore -n '__kgcore_has live' -l max-size -x -d 'write at most so many bytes of cores in all (K, M, G, T: powers of 1024), what matters most first'
complete -c kgcore -n '__kgcore_has live' -l max-time -x -d 'write for at most so many seconds in all (or m, h), what matters most first'
complete -c kgcore -n '__kgcore_has live' -l limit -x -a 'priority largest-first truncate' -d 'what the two cost first: what matters least, the ends of the largest mappings, or the end of the file as the kernel has it (default: priority)'
complete -c kgcore -n '__kgcore_has live' -l progress -x -a 'auto never json' -d 'auto: a bar with -v 1 on a terminal; json: lines for programs on standard error (default: auto)'
complete -c kgcore -n '__kgcore_has live' -k -a '(__kgcore_processes)'

complete -c kgcore -n '__kgcore_has daemon' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has daemon' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has daemon' -l socket -r -F -d 'where to listen (default: the sockets that systemd passes on, else $KGCORE_SOCKET, else /run/kgcore/socket)'
complete -c kgcore -n '__kgcore_has daemon' -l group -x -d 'let only members of this group, and root, connect (default: everybody)'
complete -c kgcore -n '__kgcore_has daemon' -l max-workers -x -d 'how many dumps there may be at once; others wait (default: as many as there are CPUs, at least 2)'
complete -c kgcore -n '__kgcore_has daemon' -l max-time -x -d 'end a dump that takes longer than so many seconds (or m, h; default: 10m)'
complete -c kgcore -n '__kgcore_has daemon' -l allow-foreign -d 'whoever may connect may have any process, of any user: with --group, this group is as mighty as root'
complete -c kgcore -n '__kgcore_has daemon' -l idle-exit -x -d 'end after so many seconds (or m, h) without a client: systemd starts it again'

complete -c kgcore -n '__kgcore_has ask' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has ask' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has ask' -l socket -r -F -d 'where it listens (default: $KGCORE_SOCKET, else /run/kgcore/socket)'
complete -c kgcore -n '__kgcore_has ask' -s f -x -a 'process' -d 'which memory: sum of the bits below, or \'process\' (default 51)'
complete -c kgcore -n '__kgcore_has ask' -l exclude -x -d 'as kgcore live has it; may be repeated'
complete -c kgcore -n '__kgcore_has ask' -l only -x -d 'as kgcore live has it; may be repeated'
complete -c kgcore -n '__kgcore_has ask' -l redact -x -d 'as kgcore live has it; may be repeated'
complete -c kgcore -n '__kgcore_has ask' -l profile -x -a 'full mini' -d 'mini: only what backtraces need (default: full)'
complete -c kgcore -n '__kgcore_has ask' -s o -r -F -d 'a new file; -: standard output'
complete -c kgcore -n '__kgcore_has ask' -l compress -x -a 'zstd gzip' -d 'compress it'
complete -c kgcore -n '__kgcore_has ask' -l max-size -x -d 'bytes (K, M, G, T: powers of 1024) that it may have'
complete -c kgcore -n '__kgcore_has ask' -l max-time -x -d 'seconds (or m, h) that it may take'
complete -c kgcore -n '__kgcore_has ask' -l limit -x -a 'priority largest-first truncate' -d 'what the two cost first, as kgcore live has it (default: priority)'
complete -c kgcore -n '__kgcore_has ask' -l freeze -x -a 'auto fork stop' -d 'as kgcore live has it (default: auto)'
complete -c kgcore -n '__kgcore_has ask' -l shared -x -a 'copy late' -d 'as kgcore live has it (default: copy)'
complete -c kgcore -n '__kgcore_has ask' -l max-freeze -x -d 'give up if it stands still for longer'
complete -c kgcore -n '__kgcore_has ask' -k -a '(__kgcore_processes)'

complete -c kgcore -n '__kgcore_has filter' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has filter' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has filter' -s v -x -d 'sum of 1 progress, 2 library errors, 4 page faults (default 4)'
complete -c kgcore -n '__kgcore_has filter' -s f -x -a 'process' -d 'which memory: sum of the bits below, or \'process\' (default all that there is)'
complete -c kgcore -n '__kgcore_has filter' -l dontdump -d 'also memory marked MADV_DONTDUMP'
complete -c kgcore -n '__kgcore_has filter' -l dax -d 'also DAX mappings'
complete -c kgcore -n '__kgcore_has filter' -l exclude -x -d 'leave out memory: name:GLOB ([heap] or a file\'s name), file:GLOB, size:>1G or addr:START-END; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has filter' -l only -x -d 'leave out all memory that no rule names; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has filter' -l redact -x -d 'write zeros in the place of memory, and say so in the report; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has filter' -l profile -x -a 'full mini' -d 'mini: of that memory only stacks, thread-local storage and what else backtraces need (default: full)'
complete -c kgcore -n '__kgcore_has filter' -l missing -x -a 'omit zero' -d 'what to do with memory that the dump lacks: omit it, so that debuggers cannot read it, or write zeros (default: omit)'
complete -c kgcore -n '__kgcore_has filter' -l no-kgcore-note -d 'omit the note that lists what is missing and why'
complete -c kgcore -n '__kgcore_has filter' -l no-state -d 'omit from that note what the process had of the kernel: signal actions, timers, limits, what is in pipes and other descriptors'
complete -c kgcore -n '__kgcore_has filter' -l share-zeros -d 'let long ranges that were never touched share one range of zeros in the file (done unasked where the file would be longer than file systems allow)'
complete -c kgcore -n '__kgcore_has filter' -s D -x -a '(__fish_complete_directories (commandline -ct))' -d 'write core.<tgid> there'
complete -c kgcore -n '__kgcore_has filter' -s o -r -F -d 'write one core to FILE; -: standard output'
complete -c kgcore -n '__kgcore_has filter' -l sysroot -x -a '(__fish_complete_directories (commandline -ct))' -d 'also write the program, its interpreter and its libraries there, for gdb\'s set sysroot'
complete -c kgcore -n '__kgcore_has filter' -l force -d 'overwrite files'
complete -c kgcore -n '__kgcore_has filter' -l dry-run -d 'show what would be written, and write nothing'
complete -c kgcore -n '__kgcore_has filter' -l report -r -F -d 'write what was saved and what is missing, as JSON; -: standard output'
complete -c kgcore -n '__kgcore_has filter' -l compress -x -a 'zstd gzip' -d 'write core.<tgid>.zst or .gz, or compress what -o gets'
complete -c kgcore -n '__kgcore_has filter' -l jobs -x -d 'processes that read and compress side by side (default: as many as there are CPUs to use)'
complete -c kgcore -n '__kgcore_has filter' -l max-size -x -d 'write at most so many bytes of cores in all (K, M, G, T: powers of 1024), what matters most first'
complete -c kgcore -n '__kgcore_has filter' -l max-time -x -d 'write for at most so many seconds in all (or m, h), what matters most first'
complete -c kgcore -n '__kgcore_has filter' -l limit -x -a 'priority largest-first truncate' -d 'what the two cost first: what matters least, the ends of the largest mappings, or the end of the file as the kernel has it (default: priority)'
complete -c kgcore -n '__kgcore_has filter' -l progress -x -a 'auto never json' -d 'auto: a bar with -v 1 on a terminal; json: lines for programs on standard error (default: auto)'
complete -c kgcore -n '__kgcore_has filter' -F

complete -c kgcore -n '__kgcore_has ps' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has ps' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has ps' -s v -x -d 'sum of 1 progress, 2 library errors, 4 page faults (default 4)'
complete -c kgcore -n '__kgcore_has ps' -l json -d 'as JSON'
complete -c kgcore -n '__kgcore_has ps' -s c -l core -r -F -d 'the vmcore (default: $KGCORE_VMCORE, else ./vmcore); repeat -c for each file of a split set'
complete -c kgcore -n '__kgcore_has ps' -s k -l kernel -d 'the running kernel'
complete -c kgcore -n '__kgcore_has ps' -l qemu -r -F -d 'a QEMU guest, by its QMP socket: a path or host:port'
complete -c kgcore -n '__kgcore_has ps' -l live -d 'this machine\'s own processes, by /proc (see kgcore live --help)'
complete -c kgcore -n '__kgcore_has ps' -s s -l symbols -r -F -d 'vmlinux, a module\'s debug file, raw BTF or a System.map; may be repeated (default: searched for)'
complete -c kgcore -n '__kgcore_has ps' -l symbols-from -x -a 'auto dwarf btf' -d 'take types and symbols from debug information (dwarf) or from the dump itself (btf) (default: auto)'
complete -c kgcore -n '__kgcore_has ps' -l debug-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for debug information; may be repeated'
complete -c kgcore -n '__kgcore_has ps' -l kernel-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for the kernel image and modules; may be repeated'
complete -c kgcore -n '__kgcore_has ps' -l vmcoreinfo -r -F -d 'use this VMCOREINFO instead of the dump\'s: a file, or a physical address (0x...) in the dump'
complete -c kgcore -n '__kgcore_has ps' -l architecture -x -a 'x86_64 i386' -d 'if the dump does not say: x86_64 or i386'
complete -c kgcore -n '__kgcore_has ps' -l match -x -d 'processes whose name (COMM), or whose program\'s base name (argv[0]), matches; may be repeated'
complete -c kgcore -n '__kgcore_has ps' -l uid -x -d 'processes of this real user id; may be repeated; with --match both must match'
complete -c kgcore -n '__kgcore_has ps' -l sort -x -a 'pid rss comm uid threads size core missing' -d 'sort ascending; size: of all mappings; missing: ~CORE minus ~HELD (default: pid)'

complete -c kgcore -n '__kgcore_has files' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has files' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has files' -s v -x -d 'sum of 1 progress, 2 library errors, 4 page faults (default 4)'
complete -c kgcore -n '__kgcore_has files' -l json -d 'as JSON'
complete -c kgcore -n '__kgcore_has files' -s c -l core -r -F -d 'the vmcore (default: $KGCORE_VMCORE, else ./vmcore); repeat -c for each file of a split set'
complete -c kgcore -n '__kgcore_has files' -s k -l kernel -d 'the running kernel'
complete -c kgcore -n '__kgcore_has files' -l qemu -r -F -d 'a QEMU guest, by its QMP socket: a path or host:port'
complete -c kgcore -n '__kgcore_has files' -l live -d 'this machine\'s own processes, by /proc (see kgcore live --help)'
complete -c kgcore -n '__kgcore_has files' -s s -l symbols -r -F -d 'vmlinux, a module\'s debug file, raw BTF or a System.map; may be repeated (default: searched for)'
complete -c kgcore -n '__kgcore_has files' -l symbols-from -x -a 'auto dwarf btf' -d 'take types and symbols from debug information (dwarf) or from the dump itself (btf) (default: auto)'
complete -c kgcore -n '__kgcore_has files' -l debug-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for debug information; may be repeated'
complete -c kgcore -n '__kgcore_has files' -l kernel-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for the kernel image and modules; may be repeated'
complete -c kgcore -n '__kgcore_has files' -l vmcoreinfo -r -F -d 'use this VMCOREINFO instead of the dump\'s: a file, or a physical address (0x...) in the dump'
complete -c kgcore -n '__kgcore_has files' -l architecture -x -a 'x86_64 i386' -d 'if the dump does not say: x86_64 or i386'
complete -c kgcore -n '__kgcore_has files' -l extract -x -d 'write the content of the file at a descriptor; missing parts become holes and are listed'
complete -c kgcore -n '__kgcore_has files' -s o -r -F -d 'with --extract: write to FILE (default: fd.<tgid>.<fd>); -: standard output'
complete -c kgcore -n '__kgcore_has files' -l list -r -F -d 'write a text file instead of the table, one line per file: fd : name : offset; -: standard output'
complete -c kgcore -n '__kgcore_has files' -l force -d 'overwrite files'
complete -c kgcore -n '__kgcore_has files' -l swap -r -F -d 'image of a swap device or swap file, named as in /proc/swaps; may be repeated'
complete -c kgcore -n '__kgcore_has files' -l root -x -a '(__fish_complete_directories (commandline -ct))' -d 'take missing pages of mapped files from the same files under DIR'
complete -c kgcore -n '__kgcore_has files' -k -a '(__kgcore_processes)'

complete -c kgcore -n '__kgcore_has info' -l layouts -d 'say of every type, member, symbol and constant that kgcore relies on whether this kernel has it, and what will not work without it'
complete -c kgcore -n '__kgcore_has info' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has info' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has info' -s v -x -d 'sum of 1 progress, 2 library errors, 4 page faults (default 4)'
complete -c kgcore -n '__kgcore_has info' -l json -d 'as JSON'
complete -c kgcore -n '__kgcore_has info' -s c -l core -r -F -d 'the vmcore (default: $KGCORE_VMCORE, else ./vmcore); repeat -c for each file of a split set'
complete -c kgcore -n '__kgcore_has info' -s k -l kernel -d 'the running kernel'
complete -c kgcore -n '__kgcore_has info' -l qemu -r -F -d 'a QEMU guest, by its QMP socket: a path or host:port'
complete -c kgcore -n '__kgcore_has info' -s s -l symbols -r -F -d 'vmlinux, a module\'s debug file, raw BTF or a System.map; may be repeated (default: searched for)'
complete -c kgcore -n '__kgcore_has info' -l symbols-from -x -a 'auto dwarf btf' -d 'take types and symbols from debug information (dwarf) or from the dump itself (btf) (default: auto)'
complete -c kgcore -n '__kgcore_has info' -l debug-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for debug information; may be repeated'
complete -c kgcore -n '__kgcore_has info' -l kernel-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for the kernel image and modules; may be repeated'
complete -c kgcore -n '__kgcore_has info' -l vmcoreinfo -r -F -d 'use this VMCOREINFO instead of the dump\'s: a file, or a physical address (0x...) in the dump'
complete -c kgcore -n '__kgcore_has info' -l architecture -x -a 'x86_64 i386' -d 'if the dump does not say: x86_64 or i386'

complete -c kgcore -n '__kgcore_has map' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has map' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has map' -s v -x -d 'sum of 1 progress, 2 library errors, 4 page faults (default 4)'
complete -c kgcore -n '__kgcore_has map' -s c -l core -r -F -d 'the vmcore (default: $KGCORE_VMCORE, else ./vmcore); repeat -c for each file of a split set'
complete -c kgcore -n '__kgcore_has map' -s k -l kernel -d 'the running kernel'
complete -c kgcore -n '__kgcore_has map' -l qemu -r -F -d 'a QEMU guest, by its QMP socket: a path or host:port'
complete -c kgcore -n '__kgcore_has map' -l live -d 'this machine\'s own processes, by /proc (see kgcore live --help)'
complete -c kgcore -n '__kgcore_has map' -s s -l symbols -r -F -d 'vmlinux, a module\'s debug file, raw BTF or a System.map; may be repeated (default: searched for)'
complete -c kgcore -n '__kgcore_has map' -l symbols-from -x -a 'auto dwarf btf' -d 'take types and symbols from debug information (dwarf) or from the dump itself (btf) (default: auto)'
complete -c kgcore -n '__kgcore_has map' -l debug-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for debug information; may be repeated'
complete -c kgcore -n '__kgcore_has map' -l kernel-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for the kernel image and modules; may be repeated'
complete -c kgcore -n '__kgcore_has map' -l vmcoreinfo -r -F -d 'use this VMCOREINFO instead of the dump\'s: a file, or a physical address (0x...) in the dump'
complete -c kgcore -n '__kgcore_has map' -l architecture -x -a 'x86_64 i386' -d 'if the dump does not say: x86_64 or i386'
complete -c kgcore -n '__kgcore_has map' -s f -x -a 'process' -d 'which memory: sum of the bits below, or \'process\' (default 51)'
complete -c kgcore -n '__kgcore_has map' -l dontdump -d 'also memory marked MADV_DONTDUMP'
complete -c kgcore -n '__kgcore_has map' -l dax -d 'also DAX mappings'
complete -c kgcore -n '__kgcore_has map' -l exclude -x -d 'leave out memory: name:GLOB ([heap] or a file\'s name), file:GLOB, size:>1G or addr:START-END; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has map' -l only -x -d 'leave out all memory that no rule names; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has map' -l redact -x -d 'write zeros in the place of memory, and say so in the report; may be repeated, the first rule that fits decides'
complete -c kgcore -n '__kgcore_has map' -l swap -r -F -d 'image of a swap device or swap file, named as in /proc/swaps; may be repeated'
complete -c kgcore -n '__kgcore_has map' -l root -x -a '(__fish_complete_directories (commandline -ct))' -d 'take missing pages of mapped files from the same files under DIR'
complete -c kgcore -n '__kgcore_has map' -l json -d 'as JSON (docs/map.md, map.schema.json)'
complete -c kgcore -n '__kgcore_has map' -l html -r -F -d 'write an HTML page with pictures to FILE; -: standard output'
complete -c kgcore -n '__kgcore_has map' -l force -d 'overwrite FILE'
complete -c kgcore -n '__kgcore_has map' -k -a '(__kgcore_processes)'

complete -c kgcore -n '__kgcore_has check' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has check' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has check' -l json -d 'as JSON'
complete -c kgcore -n '__kgcore_has check' -F

complete -c kgcore -n '__kgcore_has bt' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has bt' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has bt' -s v -x -d 'sum of 1 progress, 2 library errors, 4 page faults (default 4)'
complete -c kgcore -n '__kgcore_has bt' -l json -d 'as JSON'
complete -c kgcore -n '__kgcore_has bt' -s c -l core -r -F -d 'the vmcore (default: $KGCORE_VMCORE, else ./vmcore); repeat -c for each file of a split set'
complete -c kgcore -n '__kgcore_has bt' -s k -l kernel -d 'the running kernel'
complete -c kgcore -n '__kgcore_has bt' -l qemu -r -F -d 'a QEMU guest, by its QMP socket: a path or host:port'
complete -c kgcore -n '__kgcore_has bt' -l live -d 'this machine\'s own processes, by /proc (see kgcore live --help)'
complete -c kgcore -n '__kgcore_has bt' -s s -l symbols -r -F -d 'vmlinux, a module\'s debug file, raw BTF or a System.map; may be repeated (default: searched for)'
complete -c kgcore -n '__kgcore_has bt' -l symbols-from -x -a 'auto dwarf btf' -d 'take types and symbols from debug information (dwarf) or from the dump itself (btf) (default: auto)'
complete -c kgcore -n '__kgcore_has bt' -l debug-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for debug information; may be repeated'
complete -c kgcore -n '__kgcore_has bt' -l kernel-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for the kernel image and modules; may be repeated'
complete -c kgcore -n '__kgcore_has bt' -l vmcoreinfo -r -F -d 'use this VMCOREINFO instead of the dump\'s: a file, or a physical address (0x...) in the dump'
complete -c kgcore -n '__kgcore_has bt' -l architecture -x -a 'x86_64 i386' -d 'if the dump does not say: x86_64 or i386'
complete -c kgcore -n '__kgcore_has bt' -l all-threads -d 'show all threads, not only the named one or the first'
complete -c kgcore -n '__kgcore_has bt' -l kernel-stack -d 'also show kernel stacks'
complete -c kgcore -n '__kgcore_has bt' -l swap -r -F -d 'image of a swap device or swap file, named as in /proc/swaps; may be repeated'
complete -c kgcore -n '__kgcore_has bt' -l root -x -a '(__fish_complete_directories (commandline -ct))' -d 'take missing pages of mapped files from the same files under DIR'
complete -c kgcore -n '__kgcore_has bt' -k -a '(__kgcore_processes)'

complete -c kgcore -n '__kgcore_has debug' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has debug' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has debug' -s v -x -d 'sum of 1 progress, 2 library errors, 4 page faults (default 4)'
complete -c kgcore -n '__kgcore_has debug' -s c -l core -r -F -d 'the vmcore (default: $KGCORE_VMCORE, else ./vmcore); repeat -c for each file of a split set'
complete -c kgcore -n '__kgcore_has debug' -s k -l kernel -d 'the running kernel'
complete -c kgcore -n '__kgcore_has debug' -l qemu -r -F -d 'a QEMU guest, by its QMP socket: a path or host:port'
complete -c kgcore -n '__kgcore_has debug' -l live -d 'this machine\'s own processes, by /proc (see kgcore live --help)'
complete -c kgcore -n '__kgcore_has debug' -s s -l symbols -r -F -d 'vmlinux, a module\'s debug file, raw BTF or a System.map; may be repeated (default: searched for)'
complete -c kgcore -n '__kgcore_has debug' -l symbols-from -x -a 'auto dwarf btf' -d 'take types and symbols from debug information (dwarf) or from the dump itself (btf) (default: auto)'
complete -c kgcore -n '__kgcore_has debug' -l debug-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for debug information; may be repeated'
complete -c kgcore -n '__kgcore_has debug' -l kernel-directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'also search DIR for the kernel image and modules; may be repeated'
complete -c kgcore -n '__kgcore_has debug' -l vmcoreinfo -r -F -d 'use this VMCOREINFO instead of the dump\'s: a file, or a physical address (0x...) in the dump'
complete -c kgcore -n '__kgcore_has debug' -l architecture -x -a 'x86_64 i386' -d 'if the dump does not say: x86_64 or i386'
complete -c kgcore -n '__kgcore_has debug' -l debugger -x -a 'gdb lldb' -d 'which one (default: gdb)'
complete -c kgcore -n '__kgcore_has debug' -l print -d 'print the command instead of running it; keep the files'
complete -c kgcore -n '__kgcore_has debug' -l directory -x -a '(__fish_complete_directories (commandline -ct))' -d 'write to a new private directory in DIR'
complete -c kgcore -n '__kgcore_has debug' -l keep -d 'keep the files when the debugger ends'
complete -c kgcore -n '__kgcore_has debug' -s f -x -a 'process' -d 'which memory: sum of the bits in kgcore --help, or \'process\' (default 51)'
complete -c kgcore -n '__kgcore_has debug' -l swap -r -F -d 'image of a swap device or swap file, named as in /proc/swaps; may be repeated'
complete -c kgcore -n '__kgcore_has debug' -l root -x -a '(__fish_complete_directories (commandline -ct))' -d 'take missing pages of mapped files from the same files under DIR'
complete -c kgcore -n '__kgcore_has debug' -k -a '(__kgcore_processes)'

complete -c kgcore -n '__kgcore_has client' -l build -x -a '(__fish_complete_directories (commandline -ct))' -d 'put kgcore_client.h and libgencore.so there, compiled here and now'
complete -c kgcore -n '__kgcore_has client' -l cc -x -d 'with this compiler, which may have options (default: $CC, else cc)'
complete -c kgcore -n '__kgcore_has client' -l force -d 'overwrite files'
complete -c kgcore -n '__kgcore_has client' -l print-header -d 'print kgcore_client.h'
complete -c kgcore -n '__kgcore_has client' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has client' -s V -l version -d 'show the version'

complete -c kgcore -n '__kgcore_has restart' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has restart' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has restart' -l json -d 'as JSON'
complete -c kgcore -n '__kgcore_has restart' -l dry-run -d 'show the plan; start nothing'
complete -c kgcore -n '__kgcore_has restart' -l stopped -d 'leave it stopped (SIGSTOP)'
complete -c kgcore -n '__kgcore_has restart' -l detach -d 'do not wait for it: print its id and end'
complete -c kgcore -n '__kgcore_has restart' -l fd -x -d 'its descriptor N is: a PATH, opened as it was; @M, kgcore\'s own descriptor M; or closed'
complete -c kgcore -n '__kgcore_has restart' -l map -x -d 'files whose names begin with OLD (its program and libraries, descriptors, working directory) are in NEW'
complete -c kgcore -n '__kgcore_has restart' -l sysroot -x -a '(__fish_complete_directories (commandline -ct))' -d 'files that DIR has are taken from there, as kgcore --sysroot DIR wrote them'
complete -c kgcore -n '__kgcore_has restart' -l clock -x -a 'keep jump' -d 'keep: its clocks go on from the moment of the core, in a time namespace; jump: they are this machine\'s (default: keep where that is allowed)'
complete -c kgcore -n '__kgcore_has restart' -l allow -x -d 'restart it though the plan refuses it with these words'
complete -c kgcore -n '__kgcore_has restart' -l force -d '--allow with all words that can be allowed'
complete -c kgcore -n '__kgcore_has restart' -F

complete -c kgcore -n '__kgcore_has completion' -s h -l help -d 'show this help'
complete -c kgcore -n '__kgcore_has completion' -s V -l version -d 'show the version'
complete -c kgcore -n '__kgcore_has completion' -a 'bash zsh fish'
