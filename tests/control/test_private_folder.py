from pathlib import Path

import pytest

from runner.control.private_folder import private_folder


@pytest.mark.parametrize("left", ["nothing", "a file", "a tree", "fewer", "large", "not begun"])
async def test_a_runs_own_folder_goes_with_it_whatever_it_has_left_there(left: str, tmp_path: Path) -> None:
    async with private_folder(tmp_path / "running") as private:
        if left != "not begun":
            (private / "kubeconfig").write_text("{}")
            (private / "kubeconfig-python").write_text("{}")
            (private / "tmp").mkdir()
        match left:
            case "a file":
                (private / "tmp" / "file").write_text("a")
            case "a tree":
                (private / "cache" / "deep").mkdir(parents=True)
            case "fewer":
                (private / "kubeconfig").unlink()
            case "large":
                (private / "kubeconfig").write_text("a" * 1024**2)
    assert list((tmp_path / "running").iterdir()) == []
