# Written by tests/completions.py from the command's own parser.
_ksyms()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local command=""
	COMPREPLY=()
	# readline splits --option=argument at the =.
	if [[ $cur == "=" ]]; then
		cur=""
	elif [[ $prev == "=" ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	local i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case $command:${COMP_WORDS[i]} in
		*:-k|*:--ksyms) ((i++)) ;;
		":addr2sym") command="addr2sym" ;;
		":annotate") command="annotate" ;;
		":bpf") command="bpf" ;;
		"bpf:dump") command="bpf dump" ;;
		"bpf:check") command="bpf check" ;;
		":capture") command="capture" ;;
		":diff") command="diff" ;;
		":doctor") command="doctor" ;;
		":lockstat") command="lockstat" ;;
		":map") command="map" ;;
		":nm") command="nm" ;;
		":sym2addr") command="sym2addr" ;;
		esac
	done
	case $command:$prev in
	":-k"|":--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"addr2sym:-k"|"addr2sym:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"annotate:-k"|"annotate:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"bpf:-k"|"bpf:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"bpf dump:-k"|"bpf dump:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"bpf dump:--rules") mapfile -t COMPREPLY < <(compgen -W '6.18 7.x' -- "$cur"); return ;;
	"bpf check:-k"|"bpf check:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"bpf check:--rules") mapfile -t COMPREPLY < <(compgen -W '6.18 7.x' -- "$cur"); return ;;
	"bpf check:--kernel") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
	"bpf check:--kallsyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"bpf check:--btf") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"bpf check:--module-btf") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"bpf check:--dtors") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"bpf check:--junit") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"bpf check:--html") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"capture:-k"|"capture:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"diff:-k"|"diff:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"doctor:-k"|"doctor:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"lockstat:-s") :; return ;;
	"lockstat:-n") :; return ;;
	"lockstat:-o") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"lockstat:-k"|"lockstat:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"map:-o"|"map:--output") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"map:-k"|"map:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"nm:-t"|"nm:--radix") mapfile -t COMPREPLY < <(compgen -W 'd o x' -- "$cur"); return ;;
	"nm:-f"|"nm:--format") mapfile -t COMPREPLY < <(compgen -W 'bsd posix just-symbols' -- "$cur"); return ;;
	"nm:-k"|"nm:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	"sym2addr:-k"|"sym2addr:--ksyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	esac
	case $command:$cur in
	":"-*) mapfile -t COMPREPLY < <(compgen -W '-h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	":"*) mapfile -t COMPREPLY < <(compgen -W 'addr2sym annotate bpf capture diff doctor lockstat map nm sym2addr' -- "$cur") ;;
	"addr2sym:"-*) mapfile -t COMPREPLY < <(compgen -W '-a --addresses --all --return-address --json-lines -h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	"addr2sym:"*) : ;;
	"annotate:"-*) mapfile -t COMPREPLY < <(compgen -W '--return-address --folded -h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	"annotate:"*) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	"bpf:"-*) mapfile -t COMPREPLY < <(compgen -W '-h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	"bpf:"*) mapfile -t COMPREPLY < <(compgen -W 'dump check' -- "$cur") ;;
	"bpf dump:"-*) mapfile -t COMPREPLY < <(compgen -W '-h --help -k --ksyms -j --json -p --pretty -d --debug -V --version --rules' -- "$cur") ;;
	"bpf dump:"*) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	"bpf check:"-*) mapfile -t COMPREPLY < <(compgen -W '-h --help -k --ksyms -j --json -p --pretty -d --debug -V --version --rules --kernel --kallsyms --btf --module-btf --dtors --junit --html' -- "$cur") ;;
	"bpf check:"*) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	"capture:"-*) mapfile -t COMPREPLY < <(compgen -W '--force -h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	"capture:"*) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
	"diff:"-*) mapfile -t COMPREPLY < <(compgen -W '-s --summary -h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	"diff:"*) : ;;
	"doctor:"-*) mapfile -t COMPREPLY < <(compgen -W '-h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	"doctor:"*) : ;;
	"lockstat:"-*) mapfile -t COMPREPLY < <(compgen -W '-A -C -H -s -n -o -h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	"lockstat:"*) mapfile -t COMPREPLY < <(compgen -c -- "$cur") ;;
	"map:"-*) mapfile -t COMPREPLY < <(compgen -W '-o --output -h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	"map:"*) : ;;
	"nm:"-*) mapfile -t COMPREPLY < <(compgen -W '-g --extern-only -n --numeric-sort -r --reverse-sort -S --print-size -t --radix -f --format --no-sort --size-sort --json-lines -h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	"nm:"*) : ;;
	"sym2addr:"-*) mapfile -t COMPREPLY < <(compgen -W '--json-lines -h --help -k --ksyms -j --json -p --pretty -d --debug -V --version' -- "$cur") ;;
	"sym2addr:"*) : ;;
	esac
}
complete -F _ksyms ksyms
