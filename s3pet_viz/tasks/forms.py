"""How a row becomes text: T5's published text forms, and the pair form for encoders.

Text forms follow the T5 paper (Raffel et al. 2020, appendix D) and its published preprocessors, with one
change: BoolQ puts the question before the passage, so that a cut at the source length never drops the
question. A decoder-only model reads the same source, then `ANSWER_CUE`, then the target.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping

from s3pet_viz.errors import TaskError
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.rows import Row, text, texts, whole
from s3pet_viz.tasks.rows import plain as plain_number
from s3pet_viz.tasks.spec import BUILDERS, Form, Task

#: What a decoder-only model reads between the source and the target of the text form.
ANSWER_CUE = " answer:"

_COPA_QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
_DETERMINERS = re.compile(
    "an?|each|every|few|her|his|many|much|my|our|some|that|the|their|these|this|those|which|whose|your"
)


def plain(task: Task, row: Row, at: str, form: Form, training: bool, index: int) -> list[Example]:
    """What the task's kind makes of a row, see `Kind.example`."""
    return [task.of.example(task, row, at)]


def copa(task: Task, row: Row, at: str, form: Form, training: bool, index: int) -> list[Example]:
    """Text: one example, target choice1 / choice2. Pair: one example per choice, label 1 for the right one.

    The pair form's text_a is the premise and the question in words, text_b the choice; `group` is the row.
    """
    label = task.label_of(row, at)
    values = {name: text(row, name, at) for name in task.fields}
    source = " ".join([task.prefix, *(f"{name}: {values[name]}" for name in task.fields)])
    question = values["question"]
    if question not in _COPA_QUESTIONS:
        raise TaskError(f"{at}: expected 'cause' or 'effect' in column 'question', found {question!r}.")
    text_a = f"{values['premise']} {_COPA_QUESTIONS[question]}"
    target = task.target_of(label)
    choices = (values["choice1"], values["choice2"])
    if form == "text":
        return [Example(source, target, text_a, " ".join(choices), label)]
    return [Example(source, target, text_a, each, int(label == i), index) for i, each in enumerate(choices)]


def multirc(task: Task, row: Row, at: str, form: Form, training: bool, index: int) -> list[Example]:
    """One example per answer, `group` is its question. Line breaks and bold marks of HTML go, as in T5."""
    label = task.label_of(row, at)
    values = {name: _without_markup(text(row, name, at)) for name in task.fields}
    source = " ".join([task.prefix, *(f"{name}: {values[name]}" for name in task.fields)])
    text_b = f"{values['question']} {values['answer']}"
    group = group_of(task, row, at)
    return [Example(source, task.target_of(label), values["paragraph"], text_b, label, group)]


def record(task: Task, row: Row, at: str, form: Form, training: bool, index: int) -> list[Example]:
    """Text: the entity is generated; one example per answer in training, one per query otherwise.

    Pair: one example per candidate entity, in training too; text_b is the query with the entity in place of
    `@placeholder`, `target` the entity and `label` 1 when it is an answer. `group` is the query and
    `answers` hold every accepted answer.
    """
    query, entities, answers = text(row, "query", at), texts(row, "entities", at), texts(row, "answers", at)
    if not answers or not entities:
        raise TaskError(f"{at}: expected at least one entity and one answer, found {len(entities)} and {len(answers)}.")
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", text(row, "passage", at))
    passage = passage.replace("\n@highlight\n", ". ")
    source = f"{task.prefix} query: {query} entities: {', '.join(entities)} passage: {passage}"
    group = group_of(task, row, at)

    def example(entity: str) -> Example:
        text_b = query.replace("@placeholder", entity)
        return Example(source, entity, passage, text_b, int(entity in answers), group, answers)

    if form == "pair":
        return [example(entity) for entity in entities]
    return [example(answer) for answer in (answers if training else answers[:1])]


def wic(task: Task, row: Row, at: str, form: Form, training: bool, index: int) -> list[Example]:
    """`wic sentence1: .. sentence2: .. word: ..` (with `pos: N` in front where rows have a `pos` column).

    Pair: both sentences, each with `word: ` in front.
    """
    label = task.label_of(row, at)
    first, second, word = (text(row, name, at) for name in task.fields)
    pos = f" pos: {text(row, 'pos', at)}" if "pos" in row else ""
    source = f"{task.prefix}{pos} sentence1: {first} sentence2: {second} word: {word}"
    return [Example(source, task.target_of(label), f"{word}: {first}", f"{word}: {second}", label)]


def wsc(task: Task, row: Row, at: str, form: Form, training: bool, index: int) -> list[Example]:
    """Text: `wsc: .. *pronoun* ..`, and the noun is generated. Pair: the marked text and the noun, label 0 / 1.

    As in T5, the text form trains only on rows whose noun is the right one (the others have no known target), and a
    generated noun that matches the row's noun means label 1, any other noun label 0.
    """
    label = task.label_of(row, at)
    noun = text(row, "span1_text", at)
    pronoun = text(row, "span2_text", at)
    marked = _mark_pronoun(text(row, "text", at), pronoun, whole(row, "span2_index", at), at)
    if form == "text" and training and label != 1:
        return []
    return [Example(f"{task.prefix}: {marked}", noun, marked, noun, label, answers=(noun,))]


BUILDERS.update(plain=plain, copa=copa, multirc=multirc, record=record, wic=wic, wsc=wsc)


def group_of(task: Task, row: Row, at: str) -> Hashable:
    """The question of a MultiRC row, the query of a ReCoRD row: its `idx` where it has one, else the texts."""
    columns = ("paragraph", "question") if task.builder == "multirc" else ("passage", "query")
    return _idx(row, *columns) or tuple(text(row, name, at) for name in columns)


def is_referent(prediction: str, noun: str) -> bool:
    """Whether a generated noun means the row's noun: T5's rule for WSC.

    Case and determiners are ignored and one phrase's words must be a subset of the other's; "Bob" is not "Bob's hat".
    """
    said, meant = (
        [word for word in phrase.lower().split() if not _DETERMINERS.fullmatch(word)] for phrase in (prediction, noun)
    )
    if not said or not meant or ("'" in "".join(said)) != ("'" in "".join(meant)):
        return False
    return set(said) <= set(meant) or set(meant) <= set(said)


def _idx(row: Row, *keys: str) -> tuple[int, ...] | None:
    found = row.get("idx")
    values = [plain_number(found.get(key)) for key in keys] if isinstance(found, Mapping) else []
    whole_numbers = tuple(value for value in values if isinstance(value, int))
    return whole_numbers if len(whole_numbers) == len(keys) else None


def _without_markup(value: str) -> str:
    return re.sub(r"</?b>", "", value.replace("<br>", " "))


def _mark_pronoun(value: str, pronoun: str, index: int, at: str) -> str:
    """`*pronoun*` at word `index`, or at the nearest word that is the pronoun (some published indices are off)."""
    words = value.split(" ")
    bare = [re.sub(r"^\W+|\W+$", "", word).lower() for word in words]
    wanted = re.sub(r"^\W+|\W+$", "", pronoun).lower()
    places = [i for i, word in enumerate(bare) if word == wanted]
    if not wanted or not places:
        raise TaskError(f"{at}: expected the pronoun {pronoun!r} (span2_text) among the words of 'text', found none.")
    place = min(places, key=lambda i: (abs(i - index), i))
    core = words[place].lower().find(wanted)
    word = words[place]
    words[place] = f"{word[:core]}*{word[core : core + len(wanted)]}*{word[core + len(wanted) :]}"
    return " ".join(words)
