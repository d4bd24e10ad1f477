"""README, sentence by sentence: which tests show that it is true."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
README = (TESTS.parent / "README.md").read_text()

# How a sentence starts: the tests of what it says. Tables of differences are tried row
# by row, blocks of commands and Python are run; see the tests at their sentences.
CLAIMS: dict[str, list[str]] = {
    "**ksymsfs** gives Linux": [
        "integration/test_kernel.py::"
        "test_nm_in_address_order_equals_the_kernels_table_line_for_line"
    ],
    "`/dev/ksyms`, an ELF image": [
        "integration/test_readers.py::test_libelf_reads_it_as_lockstat_does",
        "integration/test_changes.py::"
        "test_a_loaded_program_is_in_the_next_open_and_not_in_one_before",
    ],
    "**ksyms** reads it": [
        "integration/test_kernel.py::test_symbolize_agrees_with_the_kernels_own_pS",
        "ksyms/test_commands.py::test_sym2addr_prints_every_symbol_of_a_name",
        "ksyms/test_capture.py::test_a_capture_answers_as_the_kernel_it_was_made_of",
    ],
    "Both work as root": [
        "test_readme.py::test_the_demo_ends_well_and_leaves_nothing_behind",
        "test_readme.py::"
        "test_without_root_the_demo_shows_the_client_and_says_what_is_needed",
        "test_readme.py::"
        "test_without_dev_fuse_the_demo_shows_the_client_and_says_what_is_needed",
        "test_readme.py::test_what_the_set_up_may_not_install_is_named",
    ],
    "Without the Makefile:": [],
    "`pip install .`": [
        "test_packaging.py::test_each_command_runs_from_an_installed_wheel",
        "test_packaging.py::test_dependencies_are_the_three_that_were_chosen",
        "integration/test_mount.py::"
        "test_the_device_is_a_link_to_a_link_to_the_snapshot",
    ],
    "As root:": ["test_readme.py::test_the_commands_for_root_print_what_is_shown"],
    "Every open shows": [
        "integration/test_changes.py::"
        "test_a_loaded_program_is_in_the_next_open_and_not_in_one_before",
        "guest/test_modules.py::"
        "test_an_open_snapshot_outlives_an_unload_and_the_next_open_is_fresh",
    ],
    "While nothing changes": [
        "integration/test_changes.py::"
        "test_an_open_of_an_unchanged_kernel_never_touches_kallsyms"
    ],
    "`mkksyms` writes the same image": [
        "test_readme.py::test_the_commands_for_everybody_print_what_is_shown",
        "integration/test_described_mount.py::"
        "test_an_example_is_served_as_mkksyms_writes_it",
    ],
    "`ksyms annotate` names": [
        "ksyms/test_annotate.py::test_addresses_become_names_and_nothing_else_changes",
        "ksyms/test_annotate.py::test_annotate_reads_files_against_a_capture",
    ],
    "`ksyms map` shows": [
        "ksyms/test_map.py::test_map_writes_pictures",
        "ksyms/test_diff.py::test_diff_prints_a_line_for_each_change",
        "ksyms/test_doctor.py::test_what_a_machine_lacks_is_found_with_its_remedy",
    ],
    "In Python:": [
        "test_readme.py::test_the_python_prints_what_its_comments_say",
        "ksyms/test_commands.py::test_the_image_comes_from_the_environment",
    ],
    "Both `ksymsfs` and `mkksyms` take": [
        "ksymsfs/test_running_freebsd.py::"
        "test_the_image_is_the_one_that_the_device_served",
        "ksymsfs/test_mkksyms.py::test_saved_tables_become_an_image_in_load_order",
        "ksymsfs/test_linux_files.py::test_a_system_map_is_moved_by_the_relocation",
        "ksymsfs/test_freebsd_files.py::"
        "test_the_image_equals_the_recorded_one_byte_for_byte",
        "ksymsfs/test_linux_files.py::"
        "test_a_saved_kallsyms_tells_the_relocation_by_stext",
        "integration/test_described_mount.py::"
        "test_the_next_open_sees_an_edit_and_an_open_one_does_not",
        "ksymsfs/test_saved_image.py::test_the_bytes_stay_what_they_were",
    ],
    "`--layout debug` lays": [
        "ksymsfs/test_debug_layout.py::test_nm_gives_the_letters_of_kallsyms",
        "ksymsfs/test_debug_layout.py::test_addr2line_names_functions",
        "ksymsfs/test_debug_layout.py::test_llvm_symbolizer_names_functions",
        "ksymsfs/test_debug_layout.py::test_gdb_names_functions_and_data",
        "ksymsfs/test_debug_layout.py::test_freebsd_s_layout_defeats_addr2line",
    ],
    "`--flavor netbsd` and": [
        "ksymsfs/test_flavors.py::test_each_flavor_has_its_mode_and_its_open_rule",
        "conformance/test_flavor_differences.py::test_every_row_is_tried",
    ],
    "What files alone cannot tell": [
        "ksymsfs/test_freebsd_files.py::"
        "test_per_cpu_and_vnet_data_take_room_but_lie_elsewhere",
        "ksymsfs/test_freebsd_files.py::test_an_ifunc_stays_where_its_resolver_is",
    ],
    "Symbols of a Linux module": [
        "ksymsfs/test_linux_files.py::"
        "test_symbols_of_sections_without_an_address_are_left_out"
    ],
    "`ksyms bpf check` says": [
        "ksyms/test_bpf_command.py::test_the_command_line_reproduces_the_recorded_rows",
        "ksyms/test_bpf_command.py::test_an_ordinary_user_may_check_objects",
    ],
    "It says too what": [
        "ksyms/test_kptr_check.py::test_text_has_a_line_a_field",
        "ksyms/test_kptr_check.py::test_text_says_first_what_fails",
        "ksyms/test_kptr_check.py::test_json_has_fields_and_ignored_pointers",
    ],
    "What the object alone": [
        "test_readme.py::test_the_commands_for_everybody_print_what_is_shown"
    ],
    "Without options the running": [
        "test_examples.py::test_the_examples_for_root_work_in_their_order"
    ],
    "`ksyms capture DIR` takes": [
        "ksyms/test_capture.py::test_a_capture_has_the_documented_files",
        "ksyms/test_bpf_command.py::"
        "test_several_objects_on_several_kernels_make_a_matrix_and_details",
        "ksyms/test_bpf_command.py::test_junit_counts_failures_and_errors",
        "ksyms/test_bpf_command.py::"
        "test_html_is_one_page_whose_matrix_leads_to_the_details",
    ],
    "`ksyms lockstat` reports": [
        "ksyms/test_lockstat.py::test_the_report_is_lockstats",
        "integration/test_lockstat.py::"
        "test_counts_and_times_are_those_of_a_recount_of_perf_script",
        "ksyms/test_lockstat.py::test_it_is_said_what_recording_lacks",
    ],
    "Of one build:": [
        "test_readme.py::test_lockstat_reports_in_the_form_that_is_shown",
        "test_readme.py::test_the_report_of_lockstat_adds_up",
    ],
    "Locks that were not given": [
        "ksyms/test_lockstat.py::"
        "test_static_locks_have_names_and_dynamic_ones_addresses"
    ],
    "`-s DEPTH` adds": [
        "ksyms/test_lockstat.py::test_stacks_come_with_distributions_as_lockstats_do"
    ],
    "Linux has no events": [
        "ksyms/test_lockstat.py::test_hold_times_are_refused_with_the_reason"
    ],
    "`client/include/sys/ksyms.h` has": [
        "conformance/test_conformance.py::test_conformance",
        "test_manuals.py::test_ksyms_4_has_every_request_and_no_other",
    ],
    "Those of FreeBSD 8": [
        "integration/test_compat.py::test_a_program_of_2009_starts_unchanged"
    ],
    "A wheel brings": [
        "test_packaging.py::"
        "test_manuals_completions_and_service_files_are_installed_and_only_so",
        "integration/test_service.py::test_every_capability_is_explained_in_the_unit",
    ],
    "The system finds all": [
        "integration/test_service.py::"
        "test_systemd_runs_the_unit_with_all_its_restrictions",
        "test_examples.py::test_the_line_of_fstab_that_is_shown_serves_the_device",
    ],
    "What a program that knows": [
        "conformance/test_differences.py::test_every_row_is_tried"
    ],
    "`tests/conformance` holds": ["conformance/test_conformance.py::test_conformance"],
    "On FreeBSD, which has": [
        "ksymsfs/test_fusefs.py::test_libfuse_finds_the_device_of_a_mount_that_is_made",
        "ksyms/test_doctor.py::test_freebsd_needs_libfuse2_and_mfusepy",
        "guest/test_freebsd.py::test_a_fuse_mount_serves_what_the_device_serves",
    ],
    "FUSE is less there": [
        "guest/test_freebsd.py::"
        "test_the_mount_differs_from_the_device_as_the_manual_says"
    ],
}


def sentences() -> list[str]:
    """All of README that is neither heading, block nor table."""
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    paragraphs = [
        " ".join(p.split())
        for p in re.split(r"\n\n+", prose)
        if p.strip() and not p.startswith(("#", "    ", "|"))
    ]
    return [
        sentence
        for paragraph in paragraphs
        for sentence in re.split(r"(?<=[.:])\s+(?=[A-Z`*])", paragraph)
    ]


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(n.name for n in tree.body if isinstance(n, ast.FunctionDef))


@pytest.mark.parametrize("sentence", sentences())
def test_each_sentence_has_its_tests(sentence: str) -> None:
    found = [start for start in CLAIMS if sentence.startswith(start)]

    assert len(found) == 1
    for test in CLAIMS[found[0]]:
        file, _, name = test.partition("::")
        assert name in functions_of(file), test


def test_nothing_is_shown_that_is_not_said() -> None:
    said = sentences()

    assert [s for s in CLAIMS if not any(t.startswith(s) for t in said)] == []
