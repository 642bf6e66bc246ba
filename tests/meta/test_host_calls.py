"""Every call of the C core to the host is planned for: native/tests/host_plan.c says what must happen when it fails.

Here the list in that table is compared with the source; that each place is reached, and that the table tells the truth, is
what native/tests/test_host_faults.c finds out by letting each of them fail.
"""

import re
from collections import Counter
from typing import NamedTuple

from support import c_source, tree

PLAN = "native/tests/host_plan.c"
SOURCES = [path for path in tree.files("native/src/*.c", "native/src/*.h") if not path.startswith("native/src/host/")]
CALL = re.compile(r"AKVM__HOST->(\w+)\((.*)")
# What an ioctl or madvise asks for is part of the place, so it has to be written there.
REQUEST = re.compile(r"\b(?:KVM_(?!CAP_)[A-Z]\w+|MADV_\w+|FUTEX_\w+)\b")
WITH_REQUEST = {"ioctl", "madvise", "futex"}
ROW = re.compile(r"^\tSITE\(([\w/.]+), (\w+), (\w+), (\w*), (\d+),", re.MULTILINE)


class Site(NamedTuple):
    """A place: function names are unique in the core as far as they call the host, so that a test may go by them."""

    file: str
    function: str
    call: str
    request: str


def calls_in(path: str, text: str) -> Counter[Site]:
    lines = c_source.bare(text).splitlines()
    found: Counter[Site] = Counter()
    functions = c_source.functions(text)
    for number, line in enumerate(lines, 1):
        for call, rest in CALL.findall(line):
            owner = next(item.name for item in functions if item.line <= number < item.line + item.lines)
            request = ""
            if call in WITH_REQUEST:
                # The arguments may go on in the next line.
                match = REQUEST.search(rest + lines[number])
                assert match, f"{path}:{number}: name what is asked for in the call"
                request = match.group()
            found[Site(path.removeprefix("native/src/"), owner, call, request)] += 1
    return found


def planned() -> Counter[Site]:
    """The table's places, and how often each function has the call. A place may have several rows, for different errnos."""
    found: Counter[Site] = Counter()
    for file, function, call, request, copies in ROW.findall(tree.read(PLAN)):
        site = Site(file, function, call, request)
        assert found[site] in {0, int(copies)}, f"{site} has rows that differ"
        found[site] = int(copies)
    return found


def test_every_call_of_the_core_is_planned_for() -> None:
    actual: Counter[Site] = Counter()
    for path in SOURCES:
        actual += calls_in(path, tree.read(path))
    plan = planned()
    assert {site: count for site, count in actual.items() if plan[site] != count} == {}, f"plan for these in {PLAN}"
    assert [site for site in plan if site not in actual] == [], f"gone from the source, still in {PLAN}"


def test_a_function_that_calls_the_host_has_a_name_of_its_own() -> None:
    owners = {(site.function, site.file) for site in planned()}
    assert [name for name, count in Counter(function for function, _ in owners).items() if count > 1] == []


def test_every_row_is_read() -> None:
    """A row laid out in another way would be overlooked."""
    assert len(ROW.findall(tree.read(PLAN))) == len(re.findall(r"^\s*SITE\(", tree.read(PLAN), re.MULTILINE)) > 0


SAMPLE = """\
static int one(int fd)
{
	/* AKVM__HOST->close(fd); */
	if (AKVM__HOST->ioctl(fd, KVM_RUN,
		NULL) < 0)
		return AKVM__HOST->close(fd);
	return AKVM__HOST->close(fd);
}
"""


def test_calls_are_found() -> None:
    assert calls_in("native/src/a/b.c", SAMPLE) == Counter(
        {Site("a/b.c", "one", "ioctl", "KVM_RUN"): 1, Site("a/b.c", "one", "close", ""): 2}
    )
