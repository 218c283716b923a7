from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_control_groups import machine

from mtpano_zoo.machine.memory import available_memory

pytest.importorskip("psutil", reason="needs psutil: pip install 'mtpano_zoo[generation]'")

GB = 10**9
V2 = {"memory.max": "{limit}\n", "memory.current": "3000000000\n"}
V1 = {"memory.limit_in_bytes": "{limit}\n", "memory.usage_in_bytes": "3000000000\n"}
COPIES = {"memory.stat": "anon 1\ninactive_file 1500000000\nactive_file 500000000\nfile 2500000000\n"}
COPIES_V1 = {"memory.stat": "inactive_file 1\ntotal_inactive_file 2000000000\n"}


@pytest.fixture(autouse=True)
def ten_gigabytes_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=9 * GB))
    monkeypatch.setattr("psutil.swap_memory", lambda: SimpleNamespace(free=GB))


@pytest.mark.parametrize(("limit", "free"), [(8 * GB, 5), (2 * GB, 0), (64 * GB, 10), ("max", 10)])
def test_limit_of_version_2(limit: object, free: int, tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, "0::/box\n", "box", V2, limit)) == free * GB


def test_limit_of_version_1(tmp_path: Path) -> None:
    lines = "5:cpu,cpuacct:/box\n4:memory:/box\n"
    assert available_memory(machine(tmp_path, lines, "memory/box", V1 | COPIES_V1, 4 * GB)) == 3 * GB
    assert available_memory(machine(tmp_path, lines, "memory/box", V1, 2**63 - 4096)) == 10 * GB


def test_copies_of_files_give_way(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, "0::/box\n", "box", V2 | COPIES, 8 * GB)) == 7 * GB


def test_a_parent_limits_its_groups_and_without_groups_all_is_free(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == 10 * GB
    machine(tmp_path, "0::/pod/box\n", "pod", V2, 4 * GB)
    assert available_memory(machine(tmp_path, "0::/pod/box\n", "pod/box", V2, "max")) == GB
