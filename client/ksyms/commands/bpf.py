"""Ask whether BPF objects would load on a kernel: __ksym externs and __kptr fields.

Nothing is loaded and no privilege is needed. The verdict on externs and
its words are libbpf's; beside them stand all the problems that libbpf would come to
later, what the kernel will say to the types and maps, which fields it sees in these,
and which pointers it passes over.
"""

from __future__ import annotations

import os
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat, starmap
from pathlib import Path

from ksyms.bpf.kernel_rules import RULES, RULES_6_18
from ksyms.bpf.kptrs import Kptrs, find_kptrs
from ksyms.bpf.object import BpfObject
from ksyms.bpf.targets import AnyTypes
from ksyms.check import Report, check_all
from ksyms.destructors import load_destructors
from ksyms.errors import KsymsError
from ksyms.kallsyms import Kallsyms, KallsymsImage, load_symbols
from ksyms.kernel import RUNNING, Kernel
from ksyms.options import add_global_options
from ksyms.output import print_records
from ksyms.report.records import answer_record, object_record
from ksyms.report.text import object_text, report_text
from ksyms.vmlinux import load_btf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_EPILOG = """\
examples:
  ksyms bpf dump prog.bpf.o                  what the object wants
  ksyms bpf check prog.bpf.o                 would it load here
  ksyms bpf check build/*.o --kernel captures/6.1 --kernel captures/6.12
  ksyms bpf check --help
"""

_CHECK_EPILOG = """\
Without --kernel or files the running kernel answers; -k FILE gives its symbols as an
image. A kernel described by files has what is named: without --btf no types, without
--kallsyms (or where that file does not exist) no symbol table.

Several objects on several kernels give a matrix, then the details of what fails.
Special fields are seen by the rules of the kernel's age, or by --rules. Where nobody
has said which structs have destructors (a capture does, and --dtors), the running
kernel is asked if it lets itself be, or they are guessed from names.
Exit status: 0 nothing fails, 1 something does, 2 some input is unreadable.

--json prints a list of {"object", "kernel", "result": "ok" or "-EINVAL" ..., "error":
libbpf's text or null, "messages", "externs": [{"name", "kind": "typeless", "var",
"func" or "kconfig", "weak", "status": "resolved", "unresolved" (weak, so 0) or
"error", "addr", "btf", "btf_id", "message"}], "warnings", "rules", "btf_load": 0 or
"-EINVAL" ... of BPF_BTF_LOAD, "btf_load_reason", "maps": [{"name", "type",
"value_size", "map_create": 0 or "-EACCES" ... of BPF_MAP_CREATE, "map_create_reason",
"fields": [{"off", "kind": "kptr", "bpf_timer" ..., "path", "target", "where":
"vmlinux", a module or "local"}], "ignored": [{"path", "reason"}], "inner": what a map
of maps holds, "mmap" and "mmap_reason" where libbpf cannot map global data}]}.

examples:
  ksyms bpf check prog.bpf.o
  ksyms bpf check build/*.o --kernel captures/6.1 --kernel captures/6.12 \\
        --junit report.xml --html report.html
  ksyms bpf check prog.bpf.o --kallsyms kallsyms.txt --btf vmlinux.btf \\
        --module-btf nf_tables=nf_tables.btf
"""

_DUMP_EPILOG = """\
--json prints a list of {"object", "byteorder", "compiler", "result", "messages",
"externs": [{"name", "essential_name", "kind", "weak", "type", "uses"}], "warnings",
"rules", "btf_load", "maps"}, the last three as `ksyms bpf check --help` tells, but as
far as the object alone decides.
Exit status: 1 where libbpf would not even open an object, 2 what is none.

examples:
  ksyms bpf dump prog.bpf.o
  ksyms bpf dump -j prog.bpf.o | jq '.[].maps[].fields'
"""


def configure(parser: ArgumentParser) -> None:
    """Add dump and check to *parser*."""
    parser.epilog = _EPILOG
    commands = parser.add_subparsers(dest="action", metavar="dump|check", required=True)

    def add_command(name: str, summary: str, epilog: str) -> ArgumentParser:
        command = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=epilog,
            formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        command.add_argument("objects", nargs="+", metavar="OBJ", help="BPF ELF file")
        add_global_options(command)
        return command

    def add_rules(command: ArgumentParser, default: str) -> None:
        command.add_argument(
            "--rules", choices=RULES, metavar="{" + ",".join(RULES) + "}",
            help=f"see special fields as kernels of that age do (default {default})",
        )  # fmt: skip

    dump = add_command(
        "dump", "show externs, maps and special fields of BPF objects", _DUMP_EPILOG
    )
    add_rules(dump, "6.18")
    check = add_command(
        "check", "check externs and special fields on kernels", _CHECK_EPILOG
    )
    add_rules(check, "the kernel's own")
    add = check.add_argument
    add(
        "--kernel", action="append", default=[], metavar="CAPTURE", dest="captures",
        help="a folder that ksyms capture made (may be repeated)",
    )  # fmt: skip
    add(
        "--kallsyms",
        metavar="FILE",
        help="the symbols of a kernel: a copy of /proc/kallsyms, or an image",
    )
    add(
        "--btf", metavar="FILE",
        help="the types of a kernel: /sys/kernel/btf/vmlinux, or a vmlinux",
    )  # fmt: skip
    add(
        "--module-btf", action="append", default=[], metavar="NAME=FILE",
        help="split BTF of a module, in the order of loading (may be repeated)",
    )  # fmt: skip
    add("--dtors", metavar="FILE", help="JSON with the types that have destructors")
    add("--junit", metavar="FILE", help="write a JUnit report for CI systems")
    add("--html", metavar="FILE", help="write a report as one self-contained page")
    check.set_defaults(error=check.error)


def run(args: Namespace) -> int:
    """Run dump or check and return the exit code."""
    return _dump(args) if args.action == "dump" else _check(args)


def _dump(args: Namespace) -> int:
    status = 0
    found: list[tuple[BpfObject, Kptrs]] = []
    rules = RULES[args.rules] if args.rules else RULES_6_18
    for path in args.objects:
        try:
            obj = BpfObject.load(path)
            found.append((obj, find_kptrs(obj, AnyTypes(), rules)))
        except KsymsError as error:
            status = 2
            print(f"ksyms: {error}", file=sys.stderr)
        except OSError as error:
            status = 2
            print(f"ksyms: {path}: {error.strerror}", file=sys.stderr)
    if any(obj.failures for obj, _ in found):
        status = max(status, 1)
    if args.json:
        print_records(starmap(object_record, found), args)
    else:
        _print_lines(line for parts in found for line in object_text(*parts))
    return status


def _check(args: Namespace) -> int:
    rules = RULES[args.rules] if args.rules else None
    report = check_all(args.objects, _kernels(args), rules=rules)
    for reason in dict.fromkeys(c.unreadable for c in report.checks if c.unreadable):
        print(f"ksyms: {reason}", file=sys.stderr)
    if args.json:
        answers = [c.answer for c in report.checks if c.answer is not None]
        print_records(map(answer_record, answers), args)
    else:
        _print_lines(report_text(report))
    _write_files(report, args)
    return report.exit_status


def _print_lines(lines: Iterator[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _write_files(report: Report, args: Namespace) -> None:
    if args.junit:
        from ksyms.report.junit import junit_xml

        Path(args.junit).write_text(junit_xml(report), encoding="utf-8")
    if args.html:
        from ksyms.report.html import html_page

        Path(args.html).write_text(html_page(report), encoding="utf-8")


# Names of the kernels that were asked for, and what loads each.
def _kernels(args: Namespace) -> list[tuple[str, Callable[[], Kernel]]]:
    described = args.kallsyms or args.btf or args.module_btf
    if args.captures:
        if described or args.ksyms:
            args.error("a captured kernel takes no symbols or types from files")
        return [
            (path, partial(_load, partial(Kernel.load, path), args.dtors))
            for path in args.captures
        ]
    if described:
        modules = tuple(map(_name_and_file, args.module_btf, repeat(args.error)))
        if modules and not args.btf:
            args.error("--module-btf needs --btf, which it is split on")
        if args.kallsyms and args.ksyms:
            args.error("--kallsyms and -k are two tables of symbols")
        files = filter(None, (args.kallsyms or args.ksyms, args.btf))
        name = ",".join(files)
        load = partial(_describe, name, args, modules)
    else:
        name = RUNNING
        ksyms = args.ksyms or os.environ.get("KSYMS") or None
        load = partial(Kernel.running, ksyms=ksyms)
    return [(name, partial(_load, load, args.dtors))]


def _name_and_file(word: str, error: Callable[[str], None]) -> tuple[str, str]:
    name, equals, path = word.partition("=")
    if not (name and equals and path):
        error(f"--module-btf takes NAME=FILE, not {word!r}")
    return name, path


def _load(load: Callable[[], Kernel], dtors: str | None) -> Kernel:
    kernel = load()
    if dtors:
        destructors = load_destructors(dtors)
        kernel.facts = kernel.facts._replace(destructors=destructors)
    return kernel


def _describe(
    name: str, args: Namespace, modules: tuple[tuple[str, str], ...]
) -> Kernel:
    symbols: Kallsyms | None = None
    if args.ksyms:
        symbols = KallsymsImage.load(args.ksyms)
    elif args.kallsyms and Path(args.kallsyms).exists():
        symbols = load_symbols(args.kallsyms)
    elif args.kallsyms:
        # A kernel without kallsyms is worth asking about, a mistyped name is not.
        print(
            f"ksyms: {args.kallsyms}: No such file or directory: "
            "this kernel has no kallsyms",
            file=sys.stderr,
        )
    return Kernel(
        name=name,
        symbols=symbols,
        btf=load_btf(args.btf, name="vmlinux") if args.btf else None,
        modules=modules,
    )
