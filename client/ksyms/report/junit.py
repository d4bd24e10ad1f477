"""JUnit XML for CI systems: a suite a kernel, a case an object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from ksyms.check import Check, Report
from ksyms.report.text import fields_text

# What XML 1.0 has no way to write.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(report: Report) -> str:
    """The document, as the JUnit schema of Jenkins and GitLab has it."""
    return "\n".join(_document(report)) + "\n"


def _document(report: Report) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f"<testsuites name={_quoted('ksyms bpf check')} {_counts(report.checks)}>"
    for kernel in report.kernels:
        checks = tuple(c for c in report.checks if c.kernel == kernel)
        yield f"  <testsuite name={_quoted(kernel)} {_counts(checks)}>"
        for check in checks:
            yield from _case(check)
        yield "  </testsuite>"
    yield "</testsuites>"


def _counts(checks: tuple[Check, ...]) -> str:
    errors = sum(check.answer is None for check in checks)
    failures = sum(check.verdict != "ok" for check in checks) - errors
    return f'tests="{len(checks)}" failures="{failures}" errors="{errors}"'


def _case(check: Check) -> Iterator[str]:
    yield (
        f"    <testcase classname={_quoted(check.kernel)} "
        f'name={_quoted(check.object)} time="0">'
    )
    found = check.answer
    if found is None:
        message = _quoted(check.unreadable or "")
        yield f'      <error type="unreadable" message={message}/>'
    else:
        if found.errors:
            yield (
                f"      <failure type={_quoted(found.verdict)} "
                f"message={_quoted(found.errors[0])}>"
                f"{_text(chr(10).join(found.errors))}</failure>"
            )
        told = [*fields_text(found.kptrs)]
        told += [f"warning: {text}" for text in found.warnings]
        if told:
            yield f"      <system-out>{_text(chr(10).join(told))}</system-out>"
    yield "    </testcase>"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def _quoted(text: str) -> str:
    return quoteattr(_clean(text))


def _text(text: str) -> str:
    return escape(_clean(text))
