"""Can a result be trusted? One card and one table of a search, of several, or of a study."""

from __future__ import annotations

import html
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from s3pet_viz.analysis import answers
from s3pet_viz.analysis._table import html_table
from s3pet_viz.analysis.agreement import Found
from s3pet_viz.analysis.answers import CODES, RIVALS, Answer
from s3pet_viz.analysis.explanation import kept
from s3pet_viz.analysis.findings import COLOURS
from s3pet_viz.analysis.remedies import Remedy, a_study, another_seed, asked, explained, longer, more_methods
from s3pet_viz.analysis.statistics import differences, scale_of
from s3pet_viz.analysis.study import Study, open_study, question
from s3pet_viz.analysis.transfer import Transfer
from s3pet_viz.config.checks import whole
from s3pet_viz.config.names import MODES
from s3pet_viz.errors import ConfigError, SourceError
from s3pet_viz.files import is_folder, is_there, json_ready, located
from s3pet_viz.resources import find_resource
from s3pet_viz.runs import Run
from s3pet_viz.runs.listing import Listing
from s3pet_viz.runs.status import duration
from s3pet_viz.sources import RUN, RunLike, names_source, open_source

TrustLike = RunLike | Study | Transfer | Iterable[RunLike]

_QUESTIONS = {
    "learned": "Did it learn?",
    "seeds": "Would another seed say the same?",
    "importance": "Do likelier gates matter more?",
    **{f"searched - {name}": f"Against {words}?" for name, words in RIVALS.items()},
    "health": "Anything else?",
}


class Trust:
    """What can be said of a result, and what cannot.

    Attributes:
        answers: one for each question, over all that was looked at.
        details: the same by task, budget and mode, where there are several of them.
        problems: why runs of a folder were left out, as text.
        verdict: the whole in one sentence.
    """

    def __init__(
        self, name: str, whole: Sequence[Answer], details: Sequence[Answer] = (), problems: Sequence[str] = ()
    ) -> None:
        self.name, self.answers, self.details = name, tuple(whole), tuple(details)
        self.problems = tuple(problems)

    @property
    def verdict(self) -> str:
        known = [a.brief for a in self.answers if a.brief and a.line != "health"]
        said = "; ".join(known) or "nothing can be said yet"
        said += "".join(
            f"; {'but' if known else a.code}: {a.brief}" for a in self.answers if a.brief and a.line == "health"
        )
        lacking = ", ".join(_named(a.line) for a in self.answers if a.code == "not-known")
        return said + (f"; not known: {lacking}" if lacking else "")

    @property
    def table(self) -> pd.DataFrame:
        """One row per answer, the whole before its parts.

        Columns: line, about ("all", which is "all tasks" where a task is named "all"; or a task, budget and mode),
        code, verdict, estimate, low, high (a 95 % interval), n, unit, chance, chance_low, chance_high (mean and 95 %
        band of what chance gives), command, seconds (what would answer a question that is open, and about how long that
        takes at the pace of what was measured). Numbers that are not known are NaN. Codes: learned, undecided,
        not-learned, mixed; stable, partly-stable, unstable; follows, against; better, alike, worse; nothing-unusual,
        warnings, problems; not-settled; not-known.
        """
        columns = [name for name in Answer._fields if name not in ("brief", "remedy", "whole")]
        rows = [
            {**{name: getattr(a, name) for name in columns}, **a.remedy._asdict()}
            for a in (*self.answers, *self.details)
        ]
        return pd.DataFrame(rows, columns=[*columns, *Remedy._fields])

    @property
    def open(self) -> tuple[Answer, ...]:
        """What is not known and could be found out."""
        return tuple(a for a in self.answers if a.remedy.command)

    def __repr__(self) -> str:
        lines = [f"{self.name}: {self.verdict}."]
        lines += [f"  {_named(a.line)}: {a.verdict}." for a in self.answers]
        lines += [f"  To find out ({name}{took and ', ' + took}): {command}" for name, command, took in self.remedies()]
        return "\n".join([*lines, *(f"  Left out: {problem}" for problem in self.problems)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(_QUESTIONS.get(a.line, a.line))}</th>"
            f"<td style='text-align:left;color:{COLOURS[CODES[a.code]]}'><b>{html.escape(_code(a.code))}</b></td>"
            f"<td style='text-align:left'>{html.escape(a.verdict)}</td></tr>"
            for a in self.answers
        )
        body = f"<p><b>{html.escape(self.name)}</b>: {html.escape(self.verdict)}.</p><table>{rows}</table>"
        if self.open:
            lines = (
                f"<li>{html.escape(name)}{took and ', ' + took}: <code>{html.escape(command)}</code></li>"
                for name, command, took in self.remedies()
            )
            body += f"<p>To find out what is not known:</p><ul>{''.join(lines)}</ul>"
        if self.problems:
            body += f"<p>Left out: {html.escape('; '.join(self.problems))}</p>"
        if self.details:
            parts = html_table(("question", "about", "answer", "in words"), self.parts())
            body += f"<details><summary>By task and budget</summary>{parts}</details>"
        return body

    def parts(self) -> list[tuple[str, str, str, str]]:
        """Question, what it is about, answer and its words, of each of `details`."""
        return [(_named(a.line), a.about, _code(a.code), a.verdict) for a in self.details]

    def rows(self) -> list[tuple[str, str, str]]:
        """Question, answer and its words, of each of `answers`."""
        return [(_QUESTIONS.get(a.line, a.line), _code(a.code), a.verdict) for a in self.answers]

    def remedies(self) -> list[tuple[str, str, str]]:
        """Question, command and time of each that is `open`; of several calls the first."""
        made = []
        for a in self.open:
            first, *more = a.remedy.command.splitlines()
            also = f"   # and {len(more)} more like it: .table" if more else ""
            took = "" if math.isnan(a.remedy.seconds) else f"about {duration(a.remedy.seconds)}"
            made.append((_named(a.line), first + also, took))
        return made


def trust(source: TrustLike, *, draws: int = 999, seed: int = 0) -> Trust:
    """Can this result be trusted? Whether the search learned, whether seeds agree more than chance, whether p follows
    importance, and, of a study, how the searched structures score against others; each in words, with its numbers.

    Args:
        source: a run, several, a folder of runs, or a study; or what names one. Runs that differ by nothing but their
            seed are judged together.
        draws, seed: random structures that agreement is held against, and their seed.

    Raises:
        RunError, StudyError: missing or damaged. SourceError: something else. ConfigError: no run, or a wrong number.
    """
    draws, seed = whole("draws", draws, 1), whole("seed", seed, 0)
    problems: list[str] = []
    opened = _opened(source, problems)
    if isinstance(opened, Study):
        questions = _of_study(opened)
        name = opened.name
    else:
        questions = _of_runs(opened)
        name = opened[0].name if len(opened) == 1 else f"{len(opened)} runs"
        name += f" ({len(problems)} left out)" if problems else ""
    made: dict[str, list[Answer]] = {}
    for one in questions:
        for answer in one.answers(draws, seed):
            made.setdefault(answer.line, []).append(answer)
    made |= _scored(opened, questions)
    order = [line for line in _QUESTIONS if line in made]
    total = [_joined(made[line]) for line in order]
    several = {line: found for line, found in made.items() if len(found) > 1}
    details = [a for line in order for a in several.get(line, ()) if not a.whole]
    return Trust(name, total, details, problems)


# -- what was asked -------------------------------------------------------------------------------------------


@dataclass
class _Question:
    """Searches that differ by nothing but their seed. `searches`: how many there are, with those whose runs are not at
    hand."""

    about: str
    runs: list[Run]
    found: list[Found]
    searches: int
    remedy: Remedy

    def answers(self, draws: int, seed: int) -> Iterable[Answer]:
        learned = answers.learned(self.about, self.runs, self.searches)
        unlearned, remedy = learned.code == "not-learned", self.remedy
        if unlearned and remedy.command:  # another seed would not learn either
            learned, remedy = learned._replace(remedy=longer(self.runs[0])), Remedy()
        yield learned
        yield answers.seeds(self.about, self.found, draws, seed, remedy, unlearned=unlearned)
        yield from self._importance()
        if self.runs:
            yield answers.warnings(self.about, self.runs)

    def _importance(self) -> Iterable[Answer]:
        looked = [(run, *kept(run)) for run in self.runs]
        valid = [(run, made) for run, made, stale in looked if made is not None and not stale]
        for run, made in valid:
            yield answers.importance(run.name if len(self.runs) > 1 else self.about, made)
        if not valid:
            remedy = explained(self.runs[0]) if self.runs and self.runs[0].n_steps else Remedy()
            old = any(stale for *_, stale in looked)
            said = "explained is another structure than the run has now" if old else "no search is explained yet"
            yield Answer("importance", self.about, "not-known", said, remedy=remedy)


def same_question(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ by nothing but their seed, together."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        config = run.config
        facts = [config.get(name) for name in ("task", "mode")] + [run.info["backbone"], run.info["budget"], asked(run)]
        key = json.dumps(json_ready([*facts, [g.key for g in run.gates_list]]), sort_keys=True, default=str)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def agreement_of(runs: Sequence[Run], draws: int) -> str:
    """In words, whether runs of one question agree over their seeds."""
    found = [Found.of(run) for run in runs if run.n_steps and run.info["budget"]]
    answer = answers.seeds("", found, draws, 0, Remedy(), unlearned=False)
    name = f"{found[0].task} {found[0].budget}: " if found else ""
    return f"{name}{answer.verdict}"


def _of_runs(runs: Sequence[Run]) -> list[_Question]:
    modes, backbones = ({of(run) for run in runs} for of in (lambda run: run.config.get("mode"), _backbone))
    made: list[_Question] = []
    for group in same_question(runs):
        found = [Found.of(run) for run in group if run.n_steps and run.info["budget"]]
        first = found[0] if found else None
        backbone = _backbone(group[0]).rstrip("/").rpartition("/")[2] if len(backbones) > 1 else ""
        about = (
            " ".join(filter(None, (first.task, first.budget, first.mode * (len(modes) > 1), backbone)))
            if first
            else group[0].name
        )
        same = sum(one.about.partition(" (")[0] == about for one in made)
        remedy = another_seed(group) if any(run.n_steps for run in group) else Remedy()
        made.append(_Question(f"{about} ({same + 1})" if same else about, group, found, len(group), remedy))
    return made


def _backbone(run: Run) -> str:
    return str(run.info["backbone"] or "")


def _of_study(study: Study) -> list[_Question]:
    runs = {run.path: run for run in study.runs()}
    groups: dict[tuple[str, ...], tuple[list[Run], list[Found], list[int]]] = {}
    found = study.found()
    for labels, folder, one in found:
        key = tuple(str(labels.get(name, "")) for name in ("task", "budget", "mode"))
        held, structures, count = groups.setdefault(key, ([], [], []))
        count.append(1)
        if folder in runs:
            held.append(runs[folder])
        if one is not None:
            structures.append(one)
    modes = {mode for *_, mode in groups}
    made = []
    for (task, budget, mode), (held, structures, count) in groups.items():
        about = " ".join(filter(None, (task, budget, mode if len(modes) > 1 else "")))
        made.append(_Question(about, held, structures, len(count), Remedy()))
    return made


def _scored(opened: Study | list[Run], questions: Sequence[_Question]) -> dict[str, list[Answer]]:
    """The searched structures against each rival."""
    made: dict[str, list[Answer]] = {}
    lacking = []
    rows = _by_mode(opened.at_home()) if isinstance(opened, Study) else pd.DataFrame({"method": []})
    for rival in RIVALS:
        line = f"searched - {rival}"
        try:
            if not {"searched", rival} <= set(rows["method"]):
                raise ConfigError(f"{rival} is not there")
            told = differences(rows, a="searched", b=rival, by=question(rows), scale=scale_of(rows["score"]))
        except ConfigError:  # or never both in one question
            lacking.append(rival)
            made[line] = [Answer(line, "all", "not-known", f"{RIVALS[rival]}: not trained beside it")]
            continue
        parts: dict[str, dict[str, Any]] = {}
        every: dict[str, dict[str, Any]] = {}
        for row in cast("list[dict[str, Any]]", told.to_dict("records")):
            at = " ".join(str(row[name]) for name in ("budget", "mode") if row.get(name))
            if row["pooled"]:
                every[at] = row
            else:
                parts[f"{row['task']} {at}".strip()] = row
        each = [answers.against(about, row) for about, row in parts.items()]
        if len(every) > 1:
            sizes = rows.groupby("budget")["budget_params"].min()
            every = dict(sorted(every.items(), key=lambda item: float(sizes.get(item[1]["budget"], 0))))
            each += [answers.against(f"{row['task']} {at}", row) for at, row in every.items() if row["n_groups"] > 1]
            each.append(answers.against_at_each(every))
        elif len(each) > 1:
            each += [answers.against(str(row["task"]), row)._replace(whole=True) for row in every.values()]
        made[line] = each
    if lacking:
        run = next((run for one in questions for run in one.runs if run.n_steps), None)
        if isinstance(opened, Study):
            remedy = more_methods(opened, rows, lacking)
        else:
            remedy = a_study(run, lacking) if run is not None else Remedy()
        line = f"searched - {lacking[0]}"
        made[line] = [made[line][0]._replace(remedy=remedy)]
    return made


def _by_mode(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a study that calls its searches by their modes, as those of searches."""
    named = rows["method"].isin(MODES) & (rows["mode"] == "")
    return rows.assign(mode=rows["mode"].where(~named, rows["method"]), method=rows["method"].mask(named, "searched"))


def _joined(found: Sequence[Answer]) -> Answer:
    """One answer of several: that about all tasks, else how many say what."""
    for answer in found:
        if answer.whole:
            return answer
    first = found[0]
    if len(found) == 1:
        return first
    count = Counter(answer.code for answer in found)
    known = len(found) - count["not-known"]
    code = next((c for c in count if c != "not-known" and count[c] == known), "mixed" if known else "not-known")
    if first.line == "health":
        bad = [a for a in found if a.code != "nothing-unusual"]
        code = "problems" if count["problems"] else "warnings" if bad else "nothing-unusual"
    words = ", ".join(f"{_code(c)} in {n}" for c, n in count.most_common())
    named = [*(a.about for a in found[:3]), *(["..."] if len(found) > 3 else [])]
    verdict = f"of {len(found)} ({', '.join(named)}): {words}"
    example = next((a for a in found if a.code == code), first)
    if code not in ("mixed", "not-known") and first.line != "health":
        verdict += f"; e.g. {example.about}: {example.verdict}"
    told = ", ".join(
        f"{_code(c)} in {n} of {known}" for c, n in count.most_common() if c not in ("not-known", "nothing-unusual")
    )
    if first.line == "health":
        brief = told
    elif code == "mixed":
        brief = f"{_named(first.line)}: {told}"
    else:
        brief = example.brief and example.brief + (
            f" in all {known} questions" if known == len(found) else _of(known, found)
        )
    remedy = next((a.remedy for a in found if a.remedy.command), Remedy())
    n = sum(a.n for a in found)
    return Answer(first.line, "all", code, verdict, brief, n=n, unit=first.unit, remedy=remedy)


# -- words ----------------------------------------------------------------------------------------------------


def _named(line: str) -> str:
    return {"seeds": "agreement of seeds", "health": "warnings"}.get(line, line)


def _of(known: int, found: Sequence[Answer]) -> str:
    return f" in {'all ' if known > 1 else ''}{known} of {len(found)} questions whose runs are at hand"


def _code(code: str) -> str:
    return code.replace("-", " ")


def _opened(source: Any, problems: list[str]) -> Study | list[Run]:
    """A study, or runs; why others of a folder were left out is added to `problems`."""
    if isinstance(source, Transfer):
        return source.study
    if isinstance(source, Study):
        return source
    named = isinstance(source, (str, os.PathLike)) and isinstance(os.fspath(source), str) and bool(os.fspath(source))
    if named:
        recorded = not is_there(source) and find_resource("runs", os.fspath(source)) is None
        if recorded and find_resource("studies", os.fspath(source)) is not None:
            return open_study(source)
        if is_folder(source) and os.path.lexists(located(source) / "study.json"):
            return open_study(source)
        if is_folder(source) and not names_source(source):
            listing = Listing(source)
            problems += listing.problems
            return list(listing.runs.values())
    if isinstance(source, (Run, str, bytes, os.PathLike)) or not isinstance(source, Iterable):
        return [open_source(source, allow=RUN, what="trust", wanted="a run, a study, or a folder of runs")]
    several = list(source)
    if len(several) == 1:
        return _opened(several[0], problems)
    if not several:
        raise ConfigError("trust: expected at least one run, found none")
    parts = [_opened(one, problems) for one in several]
    if any(isinstance(part, Study) for part in parts):
        raise SourceError(f"trust: expected runs, or one study alone, found {len(parts)} sources with a study")
    runs = [run for part in parts if not isinstance(part, Study) for run in part]
    return list({run.path: run for run in runs}.values())
