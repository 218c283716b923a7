import os
from pathlib import Path

import pytest
from fake_control_groups import machine

from mtpano_zoo.machine.cores import available_cores

V2 = {"cpu.max": "{limit} 100000\n"}
V1 = {"cpu.cfs_quota_us": "{limit}\n", "cpu.cfs_period_us": "100000\n"}


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


@pytest.mark.parametrize(("quota", "cores"), [(200000, 2), (150000, 1), (50000, 1), (6400000, 16), ("max", 16)])
def test_quota_of_version_2(quota: object, cores: int, tmp_path: Path) -> None:
    assert available_cores(machine(tmp_path, "0::/box\n", "box", V2, quota)) == cores


@pytest.mark.parametrize(("quota", "cores"), [(300000, 3), (-1, 16)])
def test_quota_of_version_1(quota: object, cores: int, tmp_path: Path) -> None:
    lines = "5:memory:/box\n4:cpu,cpuacct:/box\n"
    assert available_cores(machine(tmp_path, lines, "cpu,cpuacct/box", V1, quota)) == cores


def test_a_parent_limits_its_groups(tmp_path: Path) -> None:
    machine(tmp_path, "0::/pod/box\n", "pod", V2, 400000)
    assert available_cores(machine(tmp_path, "0::/pod/box\n", "pod/box", V2, "max")) == 4


def test_in_a_container_only_the_mount_is_there(tmp_path: Path) -> None:
    assert available_cores(machine(tmp_path, "4:cpu:/docker/0123\n", "cpu", V1, 200000)) == 2


def test_affinity_counts_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cores(tmp_path) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert available_cores(tmp_path) == 1


def test_systems_without_affinity_count_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert available_cores(tmp_path) == 12
