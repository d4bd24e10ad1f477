"""Check what works on this machine, and how to get the rest.

Nothing is changed. The device, the kernel's addresses and types, capabilities, perf
events and FUSE are looked at.
"""

from __future__ import annotations

from ksyms.doctor import Machine, examine
from ksyms.image import default_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_EPILOG = """\
--json prints a list of {"check", "status": "ok", "limited" or "missing", "found",
"remedy": text or null}. Exit status: 0 nothing is missing, 1 something is.

examples:
  ksyms doctor
  ksyms doctor -j | jq '.[] | select(.status != "ok")'
"""


def configure(parser: ArgumentParser) -> None:
    """Add the examples of doctor to *parser*."""
    parser.epilog = _EPILOG


def run(args: Namespace) -> int:
    """Print what was found; 1 if something is missing."""
    found = examine(Machine(), args.ksyms or default_image())
    if args.json:
        from ksyms.output import print_records

        print_records((finding._asdict() for finding in found), args)
    else:
        width = max(len(finding.check) for finding in found)
        for finding in found:
            print(f"{finding.status:8} {finding.check:{width}}  {finding.found}")
            if finding.remedy and finding.status != "ok":
                print(f"{'':8} {'':{width}}  -> {finding.remedy}")
    return 1 if any(finding.status == "missing" for finding in found) else 0
