"""The verb `bench`: fit, score the test images and measure, for every category, model and seed of a spec."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from uadctl.cells import BenchJob, pixels_of
from uadctl.engines import Engine, Here, choose_engine
from uadctl.errors import DiskError, Problem, RunError, SpecError, UadctlError
from uadctl.fit import RunResult, unit_of
from uadctl.parity import Answer, Question, compare, why_never
from uadctl.plan import Cell, Plan, distinct_models, make_plan, prepare_detector
from uadctl.progress import Progress, Silent
from uadctl.robustness import Corruption, find_corruptions, measure_robustness
from uadctl.runs import fitted as fitted_model
from uadctl.runs import provenance
from uadctl.runs.baseline import (
    RESAMPLES,
    Baseline,
    carry_over,
    check_comparable,
    check_replicates,
    check_spec,
    differences,
    is_there,
    measured_by,
    not_in_both,
    read_baseline,
    write_baseline,
)
from uadctl.runs.documents import GateDocument
from uadctl.runs.driver import Attempt, Driver
from uadctl.runs.folder import RunFolder, UnitFolder
from uadctl.runs.gate import Verdict, check_categories, compare_models
from uadctl.runs.gate import compare as compare_with_baseline
from uadctl.runs.gate import evaluate as evaluate_gate
from uadctl.runs.summary import summarise
from uadctl.spec import Overrides, build_model_kwargs, create_model, read_spec
from uadctl.spec.grammar import RobustnessTable
from uadctl.spec.signature import constructor_kwargs, rebuild_model
from uadctl.submission import SubmissionPart, private_images, write_submission

if TYPE_CHECKING:
    from uadctl.models.base import Detector
    from uadctl.spec import RunSpec
    from uadctl.spec.grammar import ModelTable

# So many of one kind of doubt are told one by one.
_SAID = 5


@dataclass(frozen=True, slots=True)
class BenchResult(RunResult):
    """A run folder and the documents that are its metrics.json and timing.json.

    gate: whether the limits of `[gate]` hold, and what is worse than a baseline; None where the spec has no limit and
        no baseline was named, now or before a resume. updated: the baseline was written from this run.
    submission: what was written for each object of MVTec AD 2, if it was asked for. submission_error: why it is not
        complete, all problems of all objects; None if it is. The run then counts as interrupted and can be resumed.
    answers: by question that was asked ("parity", "anomalib"), category, label and seed: what stands in parity.json and
        anomalib.json of each finished unit. answers_error: why there are not all, as `submission_error`.
    """

    metrics: dict[str, Any]
    timing: dict[str, Any]
    gate: Verdict | None = None
    submission: tuple[SubmissionPart, ...] = ()
    submission_error: UadctlError | None = None
    answers: dict[Question, dict[str, dict[str, dict[str, Any]]]] = field(default_factory=dict)
    robustness: dict[str, dict[str, dict[str, Any]]] | None = None
    answers_error: UadctlError | None = None
    updated: bool = False


def bench(
    spec: RunSpec,
    *,
    resume: RunFolder | None = None,
    submission: str | None = None,
    trust_checkpoint: bool = False,
    questions: Sequence[Question] = (),
    robustness: bool = False,
    gate: str | None = None,
    update_baseline: bool = False,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> BenchResult:
    """Run a spec from images to metrics, into a new run folder or on in an unfinished one.

    resume: a run folder of this spec; its finished cells are kept as they are, and without `gate` so is what it was
        held against before, unless a cell is measured anew.
    submission: folder for the maps of MVTec AD 2's private images, as its evaluation server takes them; see
        `uadctl.submission.write_submission`.
    trust_checkpoint: files of trained models may run code while they are loaded.
    questions: what else to find out about models of anomalib, see `uadctl.parity`. Finished units are asked too, each
        question once.
    robustness: measure what the finished units make of changed images, each once, see `uadctl.robustness`; a spec with
        a table [robustness] asks for it itself.
    gate: file of a baseline to hold the run against, see `uadctl.runs.gate.compare`. The run then needs resamples: a
        spec without any is run as `with_resamples` makes it.
    update_baseline: write that file from this run if no unit failed and all limits hold; what is worse than the old
        baseline is then told and breaks nothing. What the file holds of other categories and models stays, see
        `uadctl.runs.baseline.carry_over`. The file need not be there yet.
    Raises SpecError, DataError, WeightsError, BackendMissing before any work is begun; later failures stay in their
    cell, are rows of metrics.json, and are listed in the result.
    """
    progress = progress or Silent()
    if gate is not None:
        spec = with_resamples(spec)
    with contextlib.nullcontext() if resume is None else resume.locked():
        # Read under the lock: another process may have gone on with it, and ended it, since somebody looked.
        more = submission is not None or bool(questions) or robustness or gate is not None
        previous = None if resume is None else RunFolder.unfinished(resume.path, spec, done_too=more).read("run")
        if resume is not None:
            resume.remove_leftovers()
        baseline = None if gate is None else _read_baseline(gate, update=update_baseline)
        plan = make_plan(spec, trust_checkpoint=trust_checkpoint, progress=progress)
        check_categories(spec.gate, list(dict.fromkeys(cell.category for cell in plan.cells)))
        if submission is not None:
            _check_submission(plan, submission)
        against = None if gate is None else _hold_against(plan, gate, baseline, update=update_baseline)
        if against is not None and resume is not None:
            check_replicates([unit_of(resume, cell) for cell in plan.cells])
        left = resume is None or any(unit_of(resume, cell).status != "done" for cell in plan.cells)
        engine = choose_engine(spec.run) if left else Here()
        _prepare(plan, resume, questions, trust_checkpoint=trust_checkpoint)
        run = resume or RunFolder.create(spec)
        with run.locked() if resume is None else contextlib.nullcontext():
            corruptions = _corruptions(spec, robustness)
            return _bench(plan, run, engine, previous, notes, progress, submission, questions, corruptions, against)


def with_resamples(spec: RunSpec) -> RunSpec:
    """The spec with as many resamples as a comparison with a baseline needs, where it asks for none.

    SpecError where it asks for too few.
    """
    if spec.metrics.bootstrap == 0:
        return replace(spec, metrics=replace(spec.metrics, bootstrap=RESAMPLES))
    check_spec(spec)
    return spec


def check_baseline(plan: Plan, file: str, *, update: bool) -> None:
    """Raise DataError where a run of this plan could not be held against the baseline in a file.

    update: the file will be written from the run, so that it need not be there, nor fit.
    """
    _hold_against(plan, file, _read_baseline(file, update=update), update=update)


@dataclass(frozen=True, slots=True)
class _Against:
    """What a run is held against.

    file: as it was named. there: what is in it; None where it is to be made.
    baseline: the same; None where it does not fit either, and will be replaced.
    update: write the file from the run. data: by category the SHA-256 over the test images and their masks.
    labels: of the run. warnings: what will not be compared.
    """

    file: str
    there: Baseline | None
    baseline: Baseline | None
    update: bool
    data: dict[str, str]
    labels: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def _read_baseline(file: str, *, update: bool) -> Baseline | None:
    return None if update and not is_there(file) else read_baseline(file)


def _hold_against(plan: Plan, file: str, baseline: Baseline | None, *, update: bool) -> _Against:
    """Look at what can be compared, before any work. DataError where nothing can, unless the baseline is replaced."""
    first = {cell.category: cell for cell in reversed(plan.cells)}
    data: dict[str, str] = {
        category: provenance.fingerprint(cell.test, defects=cell.dataset.defects)["sha256"]
        for category, cell in first.items()
    }
    labels = tuple(dict.fromkeys(cell.model.label for cell in plan.cells))
    if baseline is None:
        return _Against(file, None, None, update, data, labels)
    if update and (problems := differences(baseline, plan.spec, data, labels)):
        told = tuple(f"not compared with {file} before it is replaced: {problem.message}" for problem in problems)
        return _Against(file, baseline, None, update, data, labels, told)
    check_comparable(baseline, file, plan.spec, data, labels)
    warnings = tuple(not_in_both(baseline, file, data, labels))
    return _Against(file, baseline, baseline, update, data, labels, warnings)


def _corruptions(spec: RunSpec, asked: bool) -> list[Corruption]:
    """What the table [robustness] says, or without one its defaults if it is asked for; else nothing."""
    table = spec.robustness
    if table is None:
        if not asked:
            return []
        table = RobustnessTable()
    return find_corruptions(table.corruptions, table.severities, seed=spec.run.all_seeds[0])


def _prepare(plan: Plan, resume: RunFolder | None, questions: Sequence[Question], *, trust_checkpoint: bool) -> None:
    """Prepare each model that has work left, and check that there is one for each question.

    A model whose units are all done needs nothing any more but what the run keeps of it: not even its checkpoint.
    """
    spec = plan.spec
    reasons: dict[Question, dict[str, str | None]] = {question: {} for question in questions}
    for model in distinct_models(spec):
        begun = [] if resume is None else [(cell, unit_of(resume, cell)) for cell in _cells_of(plan, model)]
        if begun and all(unit.status == "done" for _, unit in begun):
            for question in questions:
                reasons[question][model.label] = _why_never_of(spec, *begun[0], question)
            continue
        detector = prepare_detector(spec, model, trust_checkpoint=trust_checkpoint)
        for question in questions:
            reasons[question][model.label] = why_never(detector, question)
    _check_questions(reasons)


def _cells_of(plan: Plan, model: ModelTable) -> list[Cell]:
    """Those of a model of `distinct_models`, with whatever number of training images."""
    return [cell for cell in plan.cells if replace(cell.model, label=model.label) == model]


def _why_never_of(spec: RunSpec, cell: Cell, unit: UnitFolder, question: Question) -> str | None:
    """As `why_never`, of a unit that is done: by its answer, or by the model that it keeps."""
    if unit.has(question):
        reason: str | None = unit.read(question)["reason"]
        return reason
    if (reason := _why_never_kind(spec, cell, question)) is not None:
        return reason
    try:
        detector = fitted_model.load(unit, device=spec.run.device).detector
    except RunError:
        return None  # told when it is asked; it must not keep the others from their work
    return why_never(detector, question)


def _why_never_kind(spec: RunSpec, cell: Cell, question: Question) -> str | None:
    """As `why_never`, as far as that can be told without reading a model."""
    params = constructor_kwargs(spec.run, cell.model, seed=cell.seed, class_name=cell.class_name)
    return why_never(rebuild_model(cell.model.name, params, device=spec.run.device), question)


# What is asked of a unit once it is finished: the names of its answers' files without .json.
_Asked: TypeAlias = Question | Literal["robustness"]

# How each is asked for on the command line.
_FLAGS: dict[_Asked, str] = {
    "parity": "--parity",
    "anomalib": "--protocol anomalib",
    "robustness": "--robustness",
}


def _check_questions(reasons: Mapping[Question, Mapping[str, str | None]]) -> None:
    """Raise SpecError for a question that no model can answer. reasons: by question and label; None where it can."""
    problems = [
        Problem(
            f"{_FLAGS[question]}: no model of the spec can be asked: {_listed(told)}",
            "Models of anomalib can, from a .ckpt or .pt or trained by the spec: uadctl models list --tag anomalib",
        )
        for question, told in reasons.items()
        if all(told.values())
    ]
    if problems:
        raise SpecError(problems)


def _listed(reasons: Mapping[str, str | None]) -> str:
    told = [f"{label}: {reason}" for label, reason in reasons.items()]
    more = f"; and {len(told) - _SAID} more" if len(told) > _SAID else ""
    return "; ".join(told[:_SAID]) + more


def _check_submission(plan: Plan, folder: str) -> None:
    """Raise SpecError or DataError where a submission cannot come of this plan, before any work."""
    spec = plan.spec
    root = spec.dataset.root
    if spec.dataset.name != "mvtec_ad2" or root is None:
        raise SpecError(
            f"--submission {folder}: only MVTec AD 2 has an evaluation server; the data set is {spec.dataset.name}"
        )
    labels = list(dict.fromkeys(cell.model.label for cell in plan.cells))
    if len(labels) > 1:
        told = ", ".join(labels[:_SAID]) + (f" and {len(labels) - _SAID} more" if len(labels) > _SAID else "")
        raise SpecError(f"--submission {folder}: holds the maps of one model; the spec has {told}")
    seeds = spec.run.all_seeds
    if len(seeds) > 1:
        raise SpecError(
            f"--submission {folder}: holds the maps of one model; the spec has {len(seeds)} seeds",
            help=f"Choose one: --seed {seeds[0]}",
        )
    if spec.preprocess.crop is not None:
        raise SpecError(
            f"--submission {folder}: covers every pixel, and [preprocess] crop leaves some out",
            help="Leave out [preprocess] crop.",
        )
    if Path(folder).resolve().is_relative_to(Path(root).resolve()):
        raise SpecError(f"--submission {folder}: lies in the data set's folder", help="Name another folder.")
    for cell in plan.cells:
        private_images(root, cell.category)


def _submit(
    plan: Plan, run: RunFolder, folder: str, driver: Driver, progress: Progress
) -> tuple[list[SubmissionPart], UadctlError | None]:
    """Score the private images of every object with its finished model.

    What stops one object does not stop the others; all that was wrong comes back as one error.
    """
    spec = plan.spec
    parts: list[SubmissionPart] = []
    problems: list[Problem] = []
    for cell in plan.cells:
        unit = run.unit(cell.category, cell.model.label, cell.seed)
        if unit.status != "done":
            driver.warn(f"{cell.category}: left out of the submission, since its unit failed")
            continue
        try:
            part = write_submission(
                folder,
                root=str(spec.dataset.root),
                category=cell.category,
                fitted=fitted_model.load(unit, device=spec.run.device),
                threads=spec.run.threads,
                progress=progress,
                warn=driver.warn,
            )
        except DiskError:
            raise  # the next object's files would not be written either
        except UadctlError as error:
            problems += error.problems
        except OSError as error:
            problems.append(Problem(f"{error.filename or folder}: cannot be written: {error.strerror or error}"))
        else:
            parts.append(part)
    if not problems:
        return parts, None
    words = shlex.join(["uadctl", "bench", "--resume", str(run.path), "--submission", folder])
    again = f"{folder} is not complete. When that is mended: {words}"
    last = problems.pop()
    return parts, RunError([*problems, Problem(last.message, f"{last.help}\n{again}" if last.help else again)])


def _ask(
    plan: Plan,
    run: RunFolder,
    questions: Sequence[Question],
    corruptions: Sequence[Corruption],
    progress: Progress,
) -> UadctlError | None:
    """Have each finished unit answer what it has not answered before, into its folder.

    What stops one answer does not stop the others; all that was wrong comes back as one error.
    """
    problems: list[Problem] = []
    unforeseen: Exception | None = None
    together: list[tuple[_Asked, ...]] = [tuple(questions), ("robustness",) if corruptions else ()]
    for cell in plan.cells:
        unit = unit_of(run, cell)
        if unit.status != "done":
            continue
        for asked in together:
            open_ = [name for name in asked if not unit.has(name)]
            try:
                for name, answer in _answers(plan.spec, cell, unit, open_, corruptions, progress).items():
                    unit.write(name, answer)
            except DiskError:
                raise
            except UadctlError as error:
                problems += [Problem(f"{cell.title}: {p.message}", p.help) for p in error.problems]
            except Exception as error:  # noqa: BLE001 - whatever ends one answer must not end the others
                problems.append(Problem(f"{cell.title}: {type(error).__name__}: {error}"))
                unforeseen = error
    if not problems:
        return None
    again = " ".join(_FLAGS[name] for asked in together for name in asked)
    words = f"When that is mended: {shlex.join(['uadctl', 'bench', '--resume', str(run.path)])} {again}"
    last = problems.pop()
    told = RunError([*problems, Problem(last.message, f"{last.help}\n{words}" if last.help else words)])
    told.__cause__ = unforeseen  # its traceback is shown with --debug
    return told


def _answers(
    spec: RunSpec,
    cell: Cell,
    unit: UnitFolder,
    asked: Sequence[_Asked],
    corruptions: Sequence[Corruption],
    progress: Progress,
) -> dict[_Asked, dict[str, Any]]:
    """What one finished unit has to say, as documents; its model is read only if it is needed."""
    questions: list[Question] = [name for name in asked if name != "robustness"]
    never = {question: _why_never_kind(spec, cell, question) for question in questions}
    if all(never.values()) and "robustness" not in asked:
        return {question: Answer(reason=reason).document() for question, reason in never.items()}
    trained = fitted_model.load(unit, device=spec.run.device)
    if "robustness" in asked:
        pixels = pixels_of(cell.test, trained.camera.raw) if spec.metrics.pixel and cell.dataset.has_masks else 0
        found = measure_robustness(spec, cell, trained, corruptions, pixels=pixels, progress=progress)
        return {"robustness": found}
    answers = compare(spec, cell, trained, questions, measured=unit.read("metrics"), progress=progress)
    return {question: answer.document() for question, answer in answers.items()}


def _bench(
    plan: Plan,
    run: RunFolder,
    engine: Engine,
    previous: dict[str, Any] | None,
    notes: Sequence[str],
    progress: Progress,
    submission: str | None,
    questions: Sequence[Question],
    corruptions: Sequence[Corruption],
    against: _Against | None,
) -> BenchResult:
    spec = plan.spec
    samples = {c.category: (*c.pool, *c.dataset.validation, *c.test) for c in plan.cells}
    defects = {c.category: c.dataset.defects for c in plan.cells}
    camera = [path for _, path in spec.preprocess.files]
    fingerprint = functools.cache(
        lambda name: provenance.fingerprint(samples[name], defects=defects[name], camera=camera)
    )
    for category, known in (previous or {}).get("data", {}).items():
        if category in samples and fingerprint(category) != known:
            named = ", or the files that [preprocess] names," if camera else ""
            raise RunError(
                f"{run.path}: cannot be resumed: the images of {category}{named} are not those that it began with",
                help="Start a new run.",
            )
    earlier = _held_before(run) if previous is not None and against is None else None
    driver = Driver(run, verb="bench", progress=progress, engine=engine, notes=notes, previous=previous)
    units = [unit_of(run, cell) for cell in plan.cells]
    again = _resume_words(plan, run, submission, questions, corruptions, against)
    with driver.interruptible(again=again):
        for message in against.warnings if against is not None else ():
            driver.warn(message)
        if any(unit.status != "done" for unit in units):
            if earlier is not None:
                driver.warn(
                    f"no longer compared with {earlier.baseline}, since units are measured anew; that takes --gate"
                )
                earlier = None
            # Of other measurements: nor may a resume keep it if this one is interrupted.
            (run.path / "gate.json").unlink(missing_ok=True)

        def take(number: int, attempt: Attempt) -> None:
            unit = units[number]
            driver.describe(unit, data=fingerprint(unit.category), model=attempt.model)

        job = BenchJob.of(plan, run)
        failed = driver.work(units, job, titles=[cell.title for cell in plan.cells], take=take)
        metrics = _collect(units)
        timing = {
            "units": [
                {"category": u.category, "label": u.label, "seed": u.seed, **_without_schema(u.read("timing"))}
                for u in units
                if u.status == "done"
            ],
            "peak_memory_bytes": provenance.peak_memory(),
        }
        run.write("metrics", metrics)
        run.write("timing", timing)
        measured = None if against is None else measured_by(spec, units, against.data)
        gate = _verdict(spec, metrics, against, measured, earlier, failed=bool(failed))
        updated = False
        if gate is not None:
            if against is not None and measured is not None and against.update:
                updated = _update(against, measured, gate, driver, failed=len(failed))
            run.write("gate", gate.document())  # which says whether it is the baseline, so that must be true by now
        unanswered: UadctlError | None = None
        if questions or corruptions:
            unanswered = _ask(plan, run, questions, corruptions, progress)
        submitted: list[SubmissionPart] = []
        incomplete: UadctlError | None = None
        if submission is not None:
            submitted, incomplete = _submit(plan, run, submission, driver, progress)
        if incomplete is None and unanswered is None:
            driver.finish(failed)
        else:
            driver.interrupt()
        return BenchResult(
            run,
            tuple(failed),
            {"schema": 1, **metrics},
            {"schema": 1, **timing},
            gate,
            submission=tuple(submitted),
            submission_error=incomplete,
            answers={question: _answered(units, question) for question in questions},
            robustness=_answered(units, "robustness") if corruptions else None,
            answers_error=unanswered,
            updated=updated,
        )


def _resume_words(
    plan: Plan,
    run: RunFolder,
    submission: str | None,
    questions: Sequence[Question],
    corruptions: Sequence[Corruption],
    against: _Against | None,
) -> str:
    """The command that goes on with a run, asking for the same."""
    words = ["uadctl", "bench", "--resume", str(run.path)]
    for question in questions:
        words += _FLAGS[question].split()
    if corruptions and plan.spec.robustness is None:
        words.append(_FLAGS["robustness"])
    if submission is not None:
        words += ["--submission", submission]
    if against is not None:
        words += ["--gate", against.file, *(["--update-baseline"] if against.update else [])]
    if any(cell.trust_checkpoint for cell in plan.cells):
        words.append("--trust-checkpoint")
    return shlex.join(words)


def _held_before(run: RunFolder) -> Verdict | None:
    """What came of holding a run against a baseline earlier, without its limits; None where it was not.

    Raises RunError if its gate.json is damaged.
    """
    file = run.path / "gate.json"
    if not file.is_file():
        return None
    try:
        kept = msgspec.convert(run.read("gate"), GateDocument)
    except ValueError as error:
        raise RunError(f"{file}: damaged: {error}", help="Remove it; --gate FILE makes it anew.") from error
    if not isinstance(kept.baseline, str):
        return None
    compared = () if isinstance(kept.regressions, msgspec.UnsetType) else tuple(kept.regressions)
    return Verdict((), compared, baseline=kept.baseline, accepted=kept.accepted is True)


def _update(against: _Against, measured: Baseline, gate: Verdict, driver: Driver, *, failed: int) -> bool:
    """Write the baseline if the run may become it, and say what is in it besides, or why it was not written.

    failed: so many units did. Returns whether it was written.
    """
    if not gate.accepted:
        broken, left_out = len(gate.broken_limits), measured.left_out
        why = [f"{failed} {'unit' if failed == 1 else 'units'} failed"] if failed else []
        why += [f"{broken} {'limit is' if broken == 1 else 'limits are'} broken"] if broken else []
        why += [f"of {category} / {label} {reason}" for (category, label), reason in left_out.items()][:_SAID]
        driver.warn(f"{against.file} was not written: {'; '.join(why)}")
        return False
    carried: tuple[str, ...] = ()
    if against.there is not None:
        measured, carried = carry_over(against.there, measured, against.data, against.labels)
    write_baseline(against.file, measured)
    for regression in gate.worse:
        driver.warn(f"{regression.where}: {regression.reason}; accepted, since it becomes the baseline")
    if carried:
        more = f" and {len(carried) - _SAID} more" if len(carried) > _SAID else ""
        driver.warn(f"{against.file} keeps what this run has not: {', '.join(carried[:_SAID])}{more}")
    return True


def _verdict(
    spec: RunSpec,
    metrics: Mapping[str, Any],
    against: _Against | None,
    measured: Baseline | None,
    earlier: Verdict | None,
    *,
    failed: bool,
) -> Verdict | None:
    """Whether the limits of the spec hold, and what is worse than the baseline; None where nothing was asked.

    metrics: the run's metrics.json. measured: what of it can be compared; None without `against`. failed: a unit did.
    earlier: what came of a comparison of these very measurements; None without one.
    Regressions are accepted if the run becomes the baseline, which one that failed, breaks a limit or has nothing to
    compare of a model does not.
    """
    verdict = Verdict(()) if spec.gate is None else evaluate_gate(spec.gate, metrics)
    if against is None and earlier is None and not verdict.limits:
        return None
    models = compare_models(metrics, fpr_limits=spec.metrics.fpr_limits)
    if against is None or measured is None:
        return dataclasses.replace(earlier or verdict, limits=verdict.limits, models=models)
    table = None if spec.gate is None else spec.gate.regression
    baseline = against.baseline
    found = () if baseline is None else compare_with_baseline(table, baseline, measured, metrics)
    return Verdict(
        verdict.limits,
        found,
        baseline=against.file,
        models=models,
        accepted=against.update and not (failed or verdict.broken or measured.left_out),
    )


def build_default_detector(
    model: str = "vision_patchcore", *, device: str = "auto", pretrained: bool = True, seed: int = 0
) -> Detector:
    """A detector with its default parameters. model: its name, full or short. Raises SpecError for an unknown one."""
    auto = {"device": device, "pretrained": pretrained, "seed": seed}
    detector: Detector = create_model(model, **build_model_kwargs(model, user_kwargs={}, auto_kwargs=auto))
    return detector


def run_benchmark(
    dataset: str,
    *,
    root: str | None = None,
    categories: Sequence[str] | None = None,
    model: str = "vision_patchcore",
    model_kwargs: Mapping[str, Any] | None = None,
    pixel: bool = True,
    device: str = "auto",
    seed: int = 0,
    limit_train: int | None = None,
    limit_test: int | None = None,
    run_dir: str = "runs",
    trust_checkpoint: bool = False,
    progress: Progress | None = None,
) -> BenchResult:
    """`bench` without a spec file: one model on some categories of a data set (None: all found), with the mean over
    them.

    The arguments are the keys of the spec of the same names, and `trust_checkpoint` that of `bench`. Raises what
    `bench` raises.
    """
    reading = read_spec(
        None,
        Overrides(
            dataset=dataset,
            root=root,
            categories=None if categories is None else tuple(categories),
            model=model,
            model_kwargs=None if model_kwargs is None else json.dumps(dict(model_kwargs)),
            pixel=pixel,
            device=device,
            seed=seed,
            limit_train=limit_train,
            limit_test=limit_test,
            run_dir=run_dir,
            trust_checkpoint=trust_checkpoint,
        ),
    )
    return bench(reading.spec, trust_checkpoint=trust_checkpoint, progress=progress, notes=reading.notes)


def _collect(units: Sequence[UnitFolder]) -> dict[str, Any]:
    """The run's metrics.json out of those of its units. A failed cell voids its label's means."""
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for unit in units:
        cell = _without_schema(unit.read("metrics"))
        results.setdefault(unit.category, {}).setdefault(unit.label, {})[str(unit.seed)] = cell
    return {"results": results, **summarise(results)}


def _answered(units: Sequence[UnitFolder], question: _Asked) -> dict[str, dict[str, dict[str, Any]]]:
    """By category, label and seed the answers of the units that have one."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for unit in units:
        if unit.has(question):
            answer = _without_schema(unit.read(question))
            found.setdefault(unit.category, {}).setdefault(unit.label, {})[str(unit.seed)] = answer
    return found


def _without_schema(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "schema"}
