"""The command `course`. Everything heavy is imported where it is used, so that help and lists come at once."""

import contextlib
import functools
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from course_lib.paths import BUILD, NOTEBOOKS, RESULTS, ROOT, body_file, data_dir

OPTIONS = {"no_args_is_help": True, "add_completion": False, "pretty_exceptions_enable": False}
app = typer.Typer(**OPTIONS)
data_app = typer.Typer(**OPTIONS, help="The body, and labelled pictures of people.")
app.add_typer(data_app, name="data")
launch_app = typer.Typer(**OPTIONS, help="A paper's run: its plan, its proof, its script; or a run on this machine.")
app.add_typer(launch_app, name="launch")
weights_app = typer.Typer(**OPTIONS, help="Weights that the papers' authors released, in the course's models.")
app.add_typer(weights_app, name="weights")


workshop_app = typer.Typer(**OPTIONS, help="A folder for a room.")
app.add_typer(workshop_app, name="workshop")


class Edition(StrEnum):
    student = "student"
    complete = "complete"


@app.callback()
def main() -> None:
    """Human-centric vision from scratch, chapter by chapter."""


def stop(message: object, code: int = 1) -> typer.Exit:
    """Prints the message where errors go; raise what comes back. Code 2 says that the command was typed wrongly."""
    typer.echo(str(message), err=True)
    return typer.Exit(code)


def chapter_named(name: str):
    """The chapter, or exit code 2 with the names there are."""
    from course_lib.chapter_source import find_chapter

    try:
        return find_chapter(name)
    except ValueError as error:
        raise stop(error, 2) from None


def checked_scale(name: str | None) -> str:
    """The scale asked for, or that of COURSE_SCALE and this machine; exit code 2 with the names there are."""
    from course_lib.scale import SCALES, scale

    if name is not None and name not in SCALES:
        raise stop(f"{name!r} is not a scale: use one of {', '.join(SCALES)}", 2)
    try:
        return name or scale()
    except ValueError as error:
        raise stop(error, 2) from None


@app.command("check-env")
def check_env() -> None:
    """Is this machine ready? One line for each thing, with what mends it."""
    from course_lib.environment import environment_report

    rows = environment_report()
    for ok, name, detail, mend in rows:
        typer.echo(f"{'OK  ' if ok else 'FAIL'} {name:14s} {detail}" + (f"  ->  {mend}" if mend else ""))
    failed = sum(not row[0] for row in rows)
    typer.echo(f"{failed} of {len(rows)} need mending" if failed else "ready: `course lab` opens chapter 00")
    if failed:
        raise typer.Exit(1)


@app.command("list")
def list_chapters() -> None:
    """The chapters with their minutes and scales."""
    from rich.console import Console
    from rich.table import Table

    from course_lib.chapter_source import chapter_facts, chapters

    table = Table("chapter", "title", "reading", "exercises", "runs", box=None)
    for chapter in chapters():
        facts = chapter_facts(chapter)
        table.add_row(chapter.name, *(facts[key] for key in ("title", "reading", "exercise", "run")))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


@app.command()
def run(
    chapter: str,
    scale: Annotated[str | None, typer.Option(help="smoke, laptop or gpu; default: what this machine has.")] = None,
    edition: Annotated[Edition, typer.Option(help="With the exercises open, or with the answers.")] = Edition.student,
    store: Annotated[bool, typer.Option("--store", help="Keep the outputs in notebooks/.")] = False,
) -> None:
    """Execute a chapter; write the notebook and a page to build/; print its result table."""
    found, scale = chapter_named(chapter), checked_scale(scale)
    if scale == "paper":
        raise stop("scale paper is for launch cells: run a chapter at smoke, laptop or gpu", 2)
    if store and edition != Edition.student:
        raise stop("--store keeps outputs in the student edition: leave --edition out", 2)
    if store and scale == "smoke":
        raise stop("a smoke run shows nothing worth storing: use --scale laptop or gpu", 2)
    from course_lib import run_notebook

    typer.echo(f"running {found.name} ({edition}) at scale {scale}")
    try:
        with progress_bar(found) as on_cell:
            result, page = run_notebook.run(found, edition, scale, store, on_cell)
    except run_notebook.RunFailed as error:
        raise stop(error) from None
    except KeyboardInterrupt:
        raise stop("stopped: nothing was written", 130) from None
    typer.echo(f"\n{result}\n" if result else "")
    typer.echo(f"page: {page.relative_to(ROOT)}")
    typer.echo(f"notebook: {page.with_suffix('.ipynb').relative_to(ROOT)}")
    if store:
        typer.echo(f"outputs stored in {found.relative(found.student_notebook)}")


def progress_bar(chapter):
    """A bar over the chapter's cells: entered, it gives the function that is told each cell's number."""
    from contextlib import contextmanager

    from tqdm import tqdm

    from course_lib.chapter_source import read_cells

    @contextmanager
    def bar():
        with tqdm(total=len(read_cells(chapter)), desc="cells", leave=False, disable=not sys.stderr.isatty()) as shown:
            yield lambda index: shown.update(index - shown.n)

    return bar()


@app.command()
def build(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail on any difference.")] = False,
) -> None:
    """Make notebooks and modules from solutions/. Never executes a chapter."""
    from course_lib import build as builder

    if check:
        return check_build()
    said, problems = builder.build()
    for line in [*said, *map(str, problems)]:
        typer.echo(line)
    typer.echo(f"{len(said)} changes, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def check_build() -> None:
    """Prints every difference and, last, the one command to run."""
    from course_lib import build as builder

    found, commands = builder.check()
    for line in found:
        typer.echo(line)
    if found:
        typer.echo(f"{len(found)} differences. Run: {' && '.join(commands) or 'course build, after mending the above'}")
        raise typer.Exit(1)
    typer.echo("notebooks and modules agree with solutions/")


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Chapter and study, such as 06.mask_ratio.")],
    arms: Annotated[str, typer.Option(help="Only these arms, with commas.")] = "",
    seeds: Annotated[str, typer.Option(help="Only these seeds, with commas.")] = "",
) -> None:
    """Run an ablation, every arm under every seed; a second call goes on where a killed one stopped."""
    checked_scale(None)
    from course_lib.study import find_study, run_study

    try:
        found = find_study(name)
        chosen_seeds = [int(seed) for seed in seeds.split(",") if seed]
        paths = run_study(found, [arm for arm in arms.split(",") if arm], chosen_seeds, say=typer.echo)
    except ValueError as error:
        raise stop(error, 2) from None
    except KeyboardInterrupt:
        raise stop(f"stopped: whole records are kept; `course study {name}` goes on from there", 130) from None
    typer.echo(f"{len(paths)} records in {paths[0].parent}")


@app.command()
def ship(name: Annotated[str, typer.Argument(help="Chapter and model, such as 06.people.")]) -> None:
    """Train a model that a chapter ships and keep it in checkpoints/; a second call goes on with a killed run."""
    if checked_scale(None) == "smoke":
        raise stop("a smoke run trains nothing worth shipping: set COURSE_SCALE to laptop or gpu", 2)
    from course_lib import shipped
    from course_lib.train import CheckpointError, TrainingError

    try:
        found = shipped.find_shipped(name)
    except ValueError as error:
        raise stop(error, 2) from None
    try:
        path = shipped.ship(found, say=typer.echo)
    except (shipped.ShippedError, CheckpointError, TrainingError, ValueError, OSError) as error:
        raise stop(error) from None
    except KeyboardInterrupt:
        raise stop(f"stopped: `course ship {name}` goes on from the newest checkpoint", 130) from None
    typer.echo(f"its record is {path.relative_to(ROOT).as_posix()}")


@data_app.command("body")
def data_body() -> None:
    """What the current body file is (COURSE_BODY, else the open one)."""
    from course_lib.environment import shown
    from course_lib.files import file_hash

    path = body_file()
    try:
        facts = body_facts(path)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise stop(f"{shown(path)} is not a body file: {error}") from None
    for name, value in {"file": shown(path), **facts, "sha256": file_hash(path), "licence": body_licence(path)}.items():
        typer.echo(f"{name:22s} {value}")


def body_facts(path: Path) -> dict[str, object]:
    """Sizes of an SMPL-X file, nothing in it unpickled. KeyError names a key that is not there."""
    import zipfile

    import numpy

    try:
        with numpy.load(path, allow_pickle=False) as file:
            shapes = {key: file[key].shape for key in ("v_template", "f", "shapedirs", "weights")}
    except zipfile.BadZipFile as error:
        raise ValueError(f"broken or cut short ({error})") from None
    names = {"v_template": "vertices", "f": "faces", "shapedirs": "shape + expression", "weights": "joints"}
    return {names[key]: shape[-1] if key in ("shapedirs", "weights") else shape[0] for key, shape in shapes.items()}


def body_licence(path: Path) -> str:
    """What may be done with the body file."""
    from course_lib.paths import OPEN_BODY

    if path == OPEN_BODY:
        return "made from CC0 MakeHuman assets: see NOTICE beside it"
    return "its own: SMPL-X is licensed by its makers for research, and is not the course's to share"


def pair(text: str, between: str, option: str) -> tuple[int, int]:
    """ "512x384" -> (512, 384). ValueError naming the option for anything else."""
    first, _, second = text.partition(between)
    if not (first.isdecimal() and second.isdecimal()):
        raise ValueError(f"{option} {text} is not understood: write two whole numbers, such as 2{between}30")
    return int(first), int(second)


@data_app.command("make")
def data_make(
    world: Annotated[str, typer.Argument(help="studio, wild, scan, general or general-nopeople.")] = "wild",
    count: Annotated[int, typer.Option(help="Pictures.")] = 500,
    out: Annotated[Path | None, typer.Option(help="Folder; default: data/WORLD-SPLIT-SIZE.")] = None,
    size: Annotated[str, typer.Option(help="Pixels along each side, or HEIGHTxWIDTH.")] = "256",
    workers: Annotated[int, typer.Option(help="Processes, one thread each.")] = os.cpu_count() or 1,
    seed: Annotated[int, typer.Option(help="Same seed, same pictures.")] = 0,
    split: Annotated[str, typer.Option(help="train, val or test: they share no identity.")] = "train",
    views: Annotated[int, typer.Option(help="Cameras around each scene.")] = 1,
    frames: Annotated[int, typer.Option(help="Moments of a motion.")] = 1,
    motion: Annotated[str | None, typer.Option(help="walking, waving, turning, sitting_down, ...")] = None,
    part: Annotated[str | None, typer.Option(metavar="K/N", help="Part K of N, from 0; then once without.")] = None,
) -> None:
    """Render labelled people into shards; a second call goes on where a killed one stopped."""
    from course_lib.data.make import make

    out = out or data_dir() / f"{world}-{split}-{size}"
    settings = {"world": world, "count": count, "seed": seed, "split": split}
    settings |= {"views": views, "frames": frames, "motion": motion}
    said = f"{count} pictures in {out}: `course data info {out}` tells more"
    try:
        settings["size"] = int(size) if size.isdecimal() else pair(size, "x", "--size")
        if part is not None:
            settings["part"] = pair(part, "/", "--part")
            said = f"part {part} is whole in {out}: once all are, the same command without --part ends the set"
        make(out=out, workers=workers, **settings)
        typer.echo(said)
    except ValueError as error:
        raise stop(error, 2) from None
    except (OSError, RuntimeError) as error:
        raise stop(error) from None
    except KeyboardInterrupt:
        raise stop("stopped: whole shards are kept; the same command goes on from there", 130) from None


@data_app.command("info")
def data_info(path: Annotated[Path, typer.Argument(help="A folder of shards, or one shard.")]) -> None:
    """What is in a data set: worlds, counts, sizes, whether every shard is whole."""
    from course_lib.data.shards import info

    try:
        typer.echo(info(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise stop(error) from None


# ------------------------------------------------------------------------------------------------- weights
@weights_app.command("convert")
def weights_convert(
    file: Annotated[Path, typer.Argument(help="Sapiens, DAViD (.onnx), MAE, METRO or Graphormer: it is told which.")],
    out: Annotated[Path | None, typer.Option(help="Default: beside FILE, ending in -course.safetensors.")] = None,
    tasks: Annotated[str, typer.Option(help="Of an .onnx file's outputs, with commas, where they can't be told.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Only tell what is in the file.")] = False,
) -> None:
    """Read a file of released weights, say what it is and what has no place with us, and write it in our names."""
    from course_lib.real.weights import read_weights, save
    from course_lib.released import ReleasedError

    try:
        found = read_weights(file, tuple(tasks.split(",")) if tasks else None)
        typer.echo(found.describe())
        if not check:
            typer.echo(f"written   {save(found, out or file.with_name(f'{file.stem}-course.safetensors'))}")
    except (ReleasedError, OSError) as error:
        raise stop(error) from None


@weights_app.command("show")
def weights_show(
    file: Annotated[Path, typer.Argument(help="A converted file, or one of the authors'.")],
    photograph: Annotated[Path, typer.Argument(help="A picture with a person.")],
    box: Annotated[str, typer.Option(help="LEFT,TOP,RIGHT,BOTTOM in pixels; default: all of it.")] = "",
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("weights.png"),
) -> None:
    """What a model with these weights says about a photograph."""
    import matplotlib
    import torch

    matplotlib.use("Agg")
    from course_lib.photograph import show
    from course_lib.real.checks import SourceError
    from course_lib.real.safe import read_image
    from course_lib.real.weights import load, notes_of
    from course_lib.released import ReleasedError

    try:
        sides = None if not box else torch.tensor([float(side) for side in box.split(",")])
        if sides is not None and len(sides) != 4:
            raise ValueError(f"--box {box} is not understood: write left,top,right,bottom")
        image = torch.from_numpy(read_image(photograph, upright=True).copy()).permute(2, 0, 1) / 255
        notes = notes_of(file).get("notes", []) if file.suffix == ".safetensors" else []
        typer.echo(f"look at {show(load(file), image, sides, out, any('not through a sigmoid' in n for n in notes))}")
    except ValueError as error:
        raise stop(error, 1 if isinstance(error, SourceError) else 2) from None
    except (ReleasedError, OSError) as error:
        raise stop(error) from None


# ------------------------------------------------------------------------------------------------- launches
def named_job(
    chapter: Annotated[str, typer.Argument(help="A chapter's number or name, or a module with CONFIGS and recipe.")],
    config: Annotated[str, typer.Argument(help="One of the chapter's CONFIGS.")],
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="GPUs, and processes, on each.")] = 8,
    gpu: Annotated[str | None, typer.Option(help="Such as A100-80GB; default: the paper's.")] = None,
    parallel: Annotated[str | None, typer.Option(help="fsdp, hsdp or ddp; default: hsdp on several nodes.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another value.")] = None,
):
    """The job that these options name."""
    from course_lib import launch
    from course_lib.launch.jobs import parse_settings

    return launch.job(chapter, config, nodes, gpus_per_node, gpu=gpu, parallel=parallel, **parse_settings(settings))


def script_options(
    data: Annotated[list[Path] | None, typer.Option(help="Folder of shards; may be given several times.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/CONFIG.")] = None,
    time: Annotated[str, typer.Option(help="Of one turn, as Slurm writes it.")] = "24:00:00",
    partition: Annotated[str | None, typer.Option(help="Slurm's partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm's account.")] = None,
    container: Annotated[str | None, typer.Option(help="Image for srun (pyxis).")] = None,
    setup: Annotated[list[str] | None, typer.Option(help="A line of shell before the run.")] = None,
) -> dict[str, object]:
    """What goes into the script beside the job."""
    lists = {"data": data or [], "setup": setup or []}
    return lists | {"out": out, "time": time, "partition": partition, "account": account, "container": container}


def launching(*makers: Callable) -> Callable:
    """The command gets what the makers return, and their options beside its own. Code 2 for what was typed wrongly,
    1 for what failed, 130 for Ctrl-C."""

    def decorate(command: Callable) -> Callable:
        own = list(inspect.signature(command).parameters.values())[len(makers) :]
        shared = [list(inspect.signature(maker).parameters.values()) for maker in makers]

        @functools.wraps(command)
        def wrapped(**options) -> None:
            with launch_errors():
                taken = [{each.name: options.pop(each.name) for each in part} for part in shared]
                made = [maker(**part) for maker, part in zip(makers, taken, strict=True)]
                command(*made, **options)

        everything = [each for part in (*shared, own) for each in part]
        wrapped.__signature__ = inspect.Signature(everything)
        wrapped.__annotations__ = {each.name: each.annotation for each in everything}
        return wrapped

    return decorate


@contextlib.contextmanager
def launch_errors() -> Iterator[None]:
    from course_lib.launch import ProofFailed

    try:
        yield
    except ValueError as error:
        raise stop(error, 2) from None
    except (ProofFailed, OSError, subprocess.CalledProcessError) as error:
        raise stop(error) from None
    except KeyboardInterrupt:
        raise stop("stopped", 130) from None


@launch_app.command("plan")
@launching(named_job)
def launch_plan(
    job, utilisation: Annotated[float, typer.Option(help="Assumed share of the GPUs' peak, 0 to 1.")] = 0.4
) -> None:
    """What the run costs: FLOPs, memory of a GPU, days; beside it what the paper says."""
    typer.echo(job.plan(utilisation))


@launch_app.command("prove")
@launching(named_job)
def launch_prove(
    job, simulate: Annotated[str | None, typer.Option(help="Simulate this configuration, and run nothing.")] = None
) -> None:
    """Simulate one step on all GPUs; then lose a process of a real run of two, and see it recover."""
    typer.echo(job.prove(simulate))


@launch_app.command("script")
@launching(named_job, script_options)
def launch_script(job, options) -> None:
    """Print the file for sbatch."""
    typer.echo(job.script(**options), nl=False)


@launch_app.command("submit")
@launching(named_job, script_options)
def launch_submit(job, options, dry_run: Annotated[bool, typer.Option(help="Only print it.")] = False) -> None:
    """Print the command and the file, then hand it to sbatch."""
    job.submit(dry_run, **options)


@launch_app.command("run")
def launch_run(
    chapter: str,
    config: str,
    processes: Annotated[int, typer.Option(help="On this machine.")] = 2,
    data: Annotated[list[Path] | None, typer.Option(help="Folder of shards; may be given several times.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/CONFIG.")] = None,
    parallel: Annotated[str, typer.Option(help="ddp, fsdp or hsdp.")] = "ddp",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another value.")] = None,
    restarts: Annotated[int, typer.Option(help="After a process was lost.")] = 0,
) -> None:
    """Train here, with torchrun; the same command goes on where a stopped run was."""
    with launch_errors():
        from course_lib.launch.prove import child_environment, torchrun
        from course_lib.launch.worker import check_source

        job = named_job(chapter, config, 1, processes, "A100-80GB", parallel, settings)
        check_source(job.chapter, data)
        words = [*job.arguments(), "--out", str(out or Path("runs", config))]
        words += ["--data", *map(str, data)] if data else []
        process = subprocess.Popen(torchrun(processes, restarts, *words), env=child_environment())
    interrupted = False
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt:  # torchrun got it too: its processes save and leave
            interrupted = True
    if interrupted:
        raise stop("stopped: the same command goes on from the newest checkpoint", 130)
    raise typer.Exit(process.returncode)


# ------------------------------------------------------------------------------------- learning and teaching
@app.command()
def progress(chapter: Annotated[str | None, typer.Argument(help="Only this one, each exercise.")] = None) -> None:
    """What you have done, from the checks' own records. Nothing leaves this machine."""
    from course_lib import progress as records

    try:
        for line in records.lines(chapter):
            typer.echo(line)
    except ValueError as error:
        raise stop(error, 2) from None


@workshop_app.command("make")
def workshop_make(
    chapter: str,
    out: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    minutes: Annotated[int, typer.Option(help="How long you have.")] = 180,
    wheels: Annotated[bool, typer.Option(help="With every package, for rooms without a network.")] = True,
    data: Annotated[bool, typer.Option(help="With the rendered data that the chapter opens.")] = True,
) -> None:
    """Write a folder for a room: notebooks, packages, data, trained models, agenda; the complete edition beside it."""
    from course_lib import workshop

    found = chapter_named(chapter)
    try:
        workshop.make(found, minutes, out, wheels, data, say=typer.echo)
    except ValueError as error:
        raise stop(error, 2) from None
    except (workshop.WorkshopError, OSError) as error:
        raise stop(error) from None
    except KeyboardInterrupt:
        raise stop(f"stopped: {out} is not whole, remove it", 130) from None
    typer.echo(f"{out / 'README.md'} says how to install, {out / 'AGENDA.md'} what to do when")


@app.command()
def grade(
    folder: Annotated[Path, typer.Argument(help="The students' notebooks: ada.ipynb, or ada/06_....ipynb.")],
    chapter: Annotated[str | None, typer.Option(help="Default: what each notebook's exercises say.")] = None,
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("grades.csv"),
) -> None:
    """Test every student's answers again, each in a confined process, and write who passed what."""
    from course_lib import grade as grading
    from course_lib.files import write_atomic

    try:
        report = grading.grade(folder, chapter, say=lambda words: typer.echo(words, err=True))
        write_atomic(out, grading.csv_text(report.rows))
    except ValueError as error:
        raise stop(error, 2) from None
    except OSError as error:
        raise stop(error) from None
    except KeyboardInterrupt:
        raise stop("stopped: no table was written", 130) from None
    for line in [*grading.table_lines(report.rows), "", *grading.protection_lines(report), f"written: {out}"]:
        typer.echo(line)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context, browser: Annotated[bool, typer.Option(help="Open the browser.")] = True) -> None:
    """Open JupyterLab at chapter 00. What else is typed goes to JupyterLab, such as --port 9999 or --allow-root."""
    first = next(iter(sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))), None)
    if first is None:
        raise stop("there are no notebooks yet: run `course build`")
    page = f"--LabApp.default_url=/lab/tree/{first.relative_to(ROOT).as_posix()}"
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", page, *context.args]
    try:
        code = subprocess.call([*command, *([] if browser else ["--no-browser"])])
    except KeyboardInterrupt:
        code = 0
    raise typer.Exit(code)


@app.command()
def book() -> None:
    """Make the book, a site from the notebooks with their stored outputs, in build/book/html."""
    from course_lib.book.inspect import find_faults
    from course_lib.book.make import BookFailed, build_book

    try:
        page, warnings = build_book(BUILD / "book")
    except (BookFailed, ValueError) as error:
        raise stop(error) from None
    faults = warnings + find_faults(page.parent)
    for words in faults:
        typer.echo(words, err=True)
    typer.echo(f"open {page.relative_to(ROOT).as_posix()} in a browser; it needs no network")
    if faults:
        raise typer.Exit(1)


@app.command()
def clean(
    data: Annotated[bool, typer.Option("--data", help="Rendered data too.")] = False,
    results: Annotated[bool, typer.Option("--results", help="Result records too.")] = False,
) -> None:
    """Remove build/ and drafts that a kill left behind. Data and results stay unless asked for."""
    drafts = [
        path for folder in (NOTEBOOKS, ROOT / "solutions", ROOT / "course_lib") for path in folder.rglob(".*.tmp")
    ]
    folders = [BUILD, *([data_dir()] if data else ()), *([RESULTS] if results else ())]
    removed = [path for path in [*folders, *drafts] if path.exists()]
    if (data or results) and removed:
        names = ", ".join(str(path) for path in removed)
        typer.confirm(f"remove {names}?", abort=True)
    for path in removed:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        typer.echo(f"removed {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    typer.echo(f"{len(removed)} removed")


if __name__ == "__main__":
    app()
