"""Public operators on rolerunner, and on another engine: `python -m tests.compat.operators FOLDER…`.

Each FOLDER is an operator in the Operator SDK's form, such as a checkout of ansible/awx-operator. On a development cluster
(or that of $KUBECONFIG) its sample CR is created, changed and deleted, each until the CR is Successful, or gone, and nothing
changes any more. With `--peer COMMAND`, another engine does the same in a namespace of its own, and what the two left in the
cluster after each of these steps is compared object by object; an empty difference is what "drop-in" means.

The engines run on this machine, in the place of the manager's pod: with the files, environment and flags that the operator's
Dockerfile and Deployment say, and as the cluster's administrator. Pods run on paper. What else is special about an operator
says its description (tests/compat/operators/description.py); many need none.

Not compared is what the control plane derives from other objects, what engines tell rather than do (Events, Leases), and
what is made up anew each time: uids, times, addresses, names with random suffixes, generated passwords, hashes of all that.

The exit code is 0 if every CR was Successful and gone, and no difference was found.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from bench.driver import ROOT, RUN, Cluster, tidy_on_sigterm
from devkit.devcluster import Cluster as Devcluster
from devkit.devcluster import DevclusterError
from tests.compat.operators import comparison, trial
from tests.compat.operators.comparison import Expected
from tests.compat.operators.description import Description, DescriptionError, find, load
from tests.compat.operators.image import CONFIGURATION, read
from tests.compat.operators.services import answering
from tests.compat.operators.trial import Course, Engine

# Ports of ansible-operator that no flag changes in full.
_PROXY, _ROLE_METRICS = 8888, 5050

_PHASES = ("first", "changed", "deleted")
_EXECUTORS = {"warm": ("warm",), "subprocess": ("subprocess",), "both": ("warm", "subprocess")}


def own(executor: str, runs: Path = trial.RUNS) -> Engine:
    return Engine(
        name="rolerunner",
        executor=executor,
        command=RUN,
        python=sys.executable,
        runs=runs,
        flags=(
            *("--proxy-port=0", f"--executor={executor}", f"--runs-dir={runs}", "--log-format=json"),
            # A role that brings metrics finds no other place; but they are not what the trial is about.
            *(() if trial.is_free(_ROLE_METRICS) else ("--role-metrics-bind-address=0",)),
        ),
    )


def peer(command: str, variables: Sequence[str]) -> Engine:
    """The other engine. click.UsageError if it is not there."""
    words = shlex.split(command)
    environment = dict(variable.partition("=")[::2] for variable in variables)
    path = environment.get("PATH", os.environ["PATH"])
    program, python = shutil.which(words[0], path=path) if words else None, shutil.which("python3", path=path)
    if program is None or python is None:
        raise click.UsageError(f"--peer: there is no {'python3' if program else repr(command)} in its PATH")
    return Engine(
        name="peer",
        executor="",
        # Its flags are those of `run`.
        command=(program, *(words[1:] or ["run"])),
        python=python,
        defaults={
            "PYTHONPATH": "",
            "ANSIBLE_CONFIG": CONFIGURATION,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "runner" / "collections"),
        },
        environment=environment,
        ports=(_PROXY, _ROLE_METRICS),
    )


async def try_out(engines: Sequence[Engine], kubeconfig: Path, description: Description, **setting: Any) -> list[Course]:
    """Each engine in turn, on one cluster; `setting` is the rest of `trial.Setting`."""
    courses = []
    async with Cluster.connected(kubeconfig) as world, answering(description.services) as services:
        common = trial.Setting(
            world=world, kubeconfig=kubeconfig, description=description, services=services, say=click.echo, **setting
        )
        for engine in engines:
            click.echo(f"{engine.title}:")
            course = await trial.run(engine, common)
            if course.error:
                click.echo(f"  FAILED: {course.error}")
            courses.append(course)
    return courses


def table(name: str, courses: Sequence[Course], changes: bool) -> str:
    """One row an engine; seconds, and the runs until all was at rest."""
    header = ("operator", "engine", "executor", *(f"{phase} s" for phase in _PHASES), "runs")
    rows = [header]
    for course in courses:
        phases = [course.phases.get(phase) for phase in _PHASES]
        times = [f"{phase.seconds:.1f}" if phase else "–" for phase in phases]
        if not changes:
            times[1] = "nothing to change"
        runs = " + ".join("?" if phase.runs is None else str(phase.runs) for phase in phases if phase)
        rows.append((name, course.engine.name, course.engine.executor or "–", *times, runs or "–"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def compared(courses: Sequence[Course], description: Description) -> int:
    """Print how each engine differs from the last; the number of differences that nobody expects."""
    *others, reference = courses
    total = 0
    for course in others:
        for phase in _PHASES:
            if phase not in course.phases or phase not in reference.phases:
                continue
            ours, theirs = course.phases[phase].left, reference.phases[phase].left
            differences = comparison.compare(ours, theirs)
            rules = [*description.expected, *_run_again(course.phases[phase].runs, reference.phases[phase].runs)]
            unexpected, explained = comparison.sort_out(differences, rules)
            total += len(unexpected)
            objects = len({*ours, *theirs})
            told = f"{objects} objects, {len(unexpected)} differences" + (
                f", {len(explained)} expected" if explained else ""
            )
            click.echo(f"\n{course.engine.title} and {reference.engine.title}, {phase}: {told}")
            if unexpected:
                click.echo(comparison.report(unexpected, course.engine.title, reference.engine.title))
            for reason in dict.fromkeys(rule.why for _, rule in explained):
                click.echo(f"  expected: {reason}")
    return total


def _run_again(runs: int | None, others: int | None) -> Iterator[Expected]:
    """A status has the counts of the last run; they differ where that was the first of one and the second of another."""
    if runs != others:
        why = f"a status counts the tasks of the last run, and there were {runs} and {others} runs"
        yield Expected("*", "status.conditions.*.ansibleResult.*", why)


def write_down(courses: Sequence[Course], scratch: Path) -> None:
    """What each engine left, in files, as it is compared: with the values of Secrets."""
    for course in courses:
        for phase, reached in course.phases.items():
            content = {str(identity): obj for identity, obj in reached.left.items()}
            path = scratch / course.engine.namespace / f"{phase}.yaml"
            path.touch(mode=0o600)
            path.write_text(yaml.safe_dump(content, width=1000))


def commit(folder: Path) -> str:
    """The checkout's, in short; empty if it is none."""
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def operator(
    folder: Path, described: Path | None, engines: Sequence[Engine], scratch: Path, timeout: float, keep: bool
) -> bool:
    """One operator with all engines; whether all went well and nothing differs. DescriptionError, DevclusterError."""
    description = load(described or find(folder))
    image = read(folder, description)
    name = " ".join(filter(None, (folder.name, commit(folder))))
    sample = image.sample
    click.echo(f"{name}: {sample['kind']} {sample['metadata']['name']}, changed by {image.change or 'nothing'}")
    setting = {"image": image, "description": description, "scratch": scratch, "timeout": timeout, "keep_runs": keep}
    if kubeconfig := os.environ.get("KUBECONFIG"):
        courses = asyncio.run(try_out(engines, Path(kubeconfig), keep_namespaces=keep, **setting))
    else:
        with Devcluster.start(exec_dir=stand_ins(description, scratch / "exec")) as cluster:
            courses = asyncio.run(try_out(engines, cluster.kubeconfig, **setting))
    if keep:
        write_down(courses, scratch)
    click.echo("\n" + table(name, courses, image.change is not None))
    differences = compared(courses, description) if len(courses) > 1 else 0
    return differences == 0 and not any(course.error for course in courses)


def stand_ins(description: Description, folder: Path) -> Path:
    """The programs that pods are taken to have: scripts, or links to programs of this machine."""
    folder.mkdir()
    for name, content in description.exec.items():
        if content.startswith("/"):
            (folder / name).symlink_to(content)
        else:
            (folder / name).write_text(content)
            (folder / name).chmod(0o700)
    return folder


def _folders(scratch: Path, folders: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    for number, folder in enumerate(folders):
        place = scratch / f"{number}-{folder.name}"
        place.mkdir()
        yield folder, place


@click.command(help=__doc__)
@click.argument(
    "folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True)
)
@click.option("--executor", type=click.Choice(list(_EXECUTORS)), default="warm", show_default=True)
@click.option("--peer", "command", help="Another engine's command line; it takes the flags of `ansible-operator run`.")
@click.option("--peer-env", "variables", multiple=True, metavar="NAME=VALUE", help="For that engine; may be repeated.")
@click.option(
    "--description",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What is special about the operator.  [default: that of descriptions/ whose name is in FOLDER's, if there is one]",
)
@click.option("--timeout", type=click.FloatRange(min=1), default=1800, show_default=True, help="Seconds for each step.")
@click.option(
    "--keep", is_flag=True, help="Keep the logs, the runs and what was compared, and in $KUBECONFIG the namespaces."
)
def main(
    folders: tuple[Path, ...],
    executor: str,
    command: str | None,
    variables: tuple[str, ...],
    description: Path | None,
    timeout: float,
    keep: bool,
) -> None:
    tidy_on_sigterm()
    engines = [own(name) for name in _EXECUTORS[executor]] + ([peer(command, variables)] if command else [])
    scratch = Path(tempfile.mkdtemp(prefix="rolerunner-operators-"))
    failed = []
    try:
        for folder, place in _folders(scratch, folders):
            try:
                if not operator(folder, description, engines, place, timeout, keep):
                    failed.append(folder.name)
            except (DescriptionError, DevclusterError) as error:
                click.echo(f"{folder.name}: {error}", err=True)
                failed.append(folder.name)
    finally:
        if keep:
            click.echo(f"Kept: {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    if failed:
        click.echo(f"Not as it should be: {', '.join(failed)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
