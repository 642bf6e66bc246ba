"""What guests run on is decided in one place: nothing above the platform asks which one it is."""

import re

from support import tree

# The attribute of a machine, its capabilities or its settings, or a name it is compared with; passing a name on is no question.
ASKS = re.compile(r"(?:machine|capabilities|config)\.platform\b|(?:==|!=|\bin|\bcase)\W+(?:kvm|ptrace)\b")


def test_no_layer_above_branches_on_it() -> None:
    paths = tree.files("asynckvm/linux/*.py", "asynckvm/sandbox/*.py")
    found = [
        f"{path}:{number} {line.strip()}"
        for path in paths
        for number, line in enumerate(tree.read(path).splitlines(), 1)
        if ASKS.search(line)
    ]
    assert paths
    assert found == []


def test_what_would_be_found() -> None:
    assert ASKS.search('if machine.platform == "ptrace":')
    assert ASKS.search("self.machine.capabilities.platform")
    assert ASKS.search('if platform == "ptrace":')
    assert ASKS.search('if platform in ("kvm",):')
    assert not ASKS.search("from asynckvm.platform import Machine")
