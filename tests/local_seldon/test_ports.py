import subprocess
import sys

from local_seldon.ports import KEPT, free_ports
from tests.support.programs import ROOT

MANY = "from local_seldon.ports import free_ports; print(*(port for _ in range(1_000) for port in free_ports(2)))"


def test_a_port_is_given_to_one_process_only() -> None:
    ours = set(free_ports(KEPT))
    assert len(ours) == KEPT
    theirs = subprocess.run([sys.executable, "-c", MANY], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert len(theirs.split()) == 2_000
    assert not ours & set(map(int, theirs.split()))
