"""The batch scripts that the guide on Slurm shows are the files that its tier runs."""

from pages import ROOT, blocks_of


def test_the_scripts_in_the_guide_are_those_that_are_run() -> None:
    shown = [
        block.text
        for block in blocks_of((ROOT / "docs/guide/slurm.md").read_text())
        if block.language == "bash"
    ]
    files = [(ROOT / "examples/slurm" / name).read_text() for name in ("job.sbatch", "workers.sbatch")]
    assert shown == files
