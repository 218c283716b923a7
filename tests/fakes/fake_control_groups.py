"""What the kernel shows of control groups."""

from pathlib import Path


def machine(root: Path, cgroup: str, folder: str, files: dict[str, str], limit: object) -> Path:
    """Write what the kernel shows of one control group."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "sys/fs/cgroup" / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / "sys/fs/cgroup" / folder / name).write_text(text.format(limit=limit))
    return root
