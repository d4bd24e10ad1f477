# Written by tests/completions.py from the command's own parser.
_ksymsfs()
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
	case $command:$prev in
	":-o") :; return ;;
	":--device") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	":--mode") :; return ;;
	":--max-image") :; return ;;
	":--log") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	":--binding") :; return ;;
	":--kallsyms") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	":--modules") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	":--kernel") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	":-m") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	":--sections") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	":--relocate") :; return ;;
	":--manifest") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	":--image") compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	":--flavor") mapfile -t COMPREPLY < <(compgen -W 'freebsd illumos netbsd' -- "$cur"); return ;;
	":--layout") mapfile -t COMPREPLY < <(compgen -W 'debug freebsd' -- "$cur"); return ;;
	esac
	case $command:$cur in
	":"-*) mapfile -t COMPREPLY < <(compgen -W '-h --help -f --foreground -d --debug -o --device --mode --max-image --log --binding -V --version --kallsyms --modules --kernel -m --sections --relocate --manifest --image --flavor --layout' -- "$cur") ;;
	":"*) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
	esac
}
complete -F _ksymsfs ksymsfs
