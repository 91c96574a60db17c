"""Drafts a contract from a table: types, ranges and categories are read off the data, and the rest is named.

A draft is a file to edit. What the data cannot decide (which class is positive, what a range allows, what a blank cell
means) gets the likelier answer, a comment beside it, and a line in `Draft.open_questions`.
"""

from __future__ import annotations

import keyword
import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc
from pydantic import BaseModel

from custom_runtime.schema import EXACT_INTEGER, KEY_LONGEST, KEY_MAXIMUM, VERSION_FIELD
from handoff.errors import DataError

# A text column with more different values is free text, a name or a date: no model takes one column of it.
MOST_CATEGORIES = 50
MOST_CLASSES = 20
# So many different values of one column are counted exactly; a column with more of them is no category.
MOST_COUNTED = 1_000
LINE_LENGTH = 120
UNKNOWN = "unknown"
# Other fields of a drafted prediction: a label of this name gets an underscore.
OUTPUTS = frozenset({"features", "probabilities"})
# How other programs write a blank cell. The feature loader takes blank cells only.
BLANK_MARKS = frozenset({"na", "n/a", "nan", "null", "none", "?"})
BOOLEANS = frozenset({"true", "false"})

_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
_MODULE = '''"""The contract of the model {name}: what a caller sends, what a caller gets, and the features in between.

Drafted from {source} ({rows:,} rows) by `churn-serving contract init`. What the table could not decide:

{questions}
"""

from typing import {typing}

from pydantic import BaseModel, ConfigDict, Field

from custom_runtime.schema import (
{imports}
)

{alias}class {title}Input(BaseModel):
    """{input_text}"""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=remove_null_defaults)

{fields}


class {title}Prediction(BaseModel):
    """The response for one row."""

    model_config = ConfigDict(protected_namespaces=())

{outputs}


CONTRACT = Contract(
    name={quoted_name},
    key={key},
    input={title}Input,
    prediction={title}Prediction,
    label={label},
    task={task},
)
'''


@dataclass
class Column:
    """One column's values, counted batch by batch. counts: value -> cells, complete unless `is_various`."""

    name: str
    cells: int = 0
    blank: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    is_various: bool = False
    is_number: bool = True
    is_whole: bool = True
    low: float = math.inf
    high: float = -math.inf
    longest: int = 0

    def add(self, values: Iterable[tuple[Any, int]]) -> None:
        """Count the cells of one batch, given as its different values and how many cells hold each."""
        for value, cells in values:
            text = "" if value is None else str(value).strip()
            self.cells += cells
            if not text:
                self.blank += cells
            elif text.lower() in BLANK_MARKS:
                self.marks[text] += cells
            else:
                self._count(text, cells)

    def _count(self, text: str, cells: int) -> None:
        self.longest = max(self.longest, len(text))
        if text in self.counts:
            self.counts[text] += cells
            return
        if len(self.counts) < MOST_COUNTED:
            self.counts[text] = cells
        else:
            self.is_various = True
        if not self.is_number:
            return
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.is_number = self.is_whole = False
            return
        self.is_whole = self.is_whole and _WHOLE.fullmatch(text) is not None
        self.low, self.high = min(self.low, number), max(self.high, number)

    @property
    def values(self) -> list[str]:
        """The different values, sorted."""
        return sorted(self.counts)

    @property
    def missing(self) -> int:
        """Cells without a value: blank, or written as one of BLANK_MARKS."""
        return self.blank + sum(self.marks.values())

    @property
    def is_boolean(self) -> bool:
        """Whether all values are true or false."""
        return bool(self.counts) and not self.is_various and {value.lower() for value in self.counts} <= BOOLEANS

    @property
    def commonest(self) -> str:
        """The value with the most cells, of those that were counted."""
        return self.counts.most_common(1)[0][0]


@dataclass(frozen=True, slots=True)
class Draft:
    """A contract's text. left_out: columns that became no field. open_questions: what a person has to decide."""

    text: str
    name: str
    task: Literal["binary", "multiclass", "regression"]
    features: int
    left_out: tuple[str, ...]
    open_questions: tuple[str, ...]


def draft_contract(path: Path, *, key: str | None, label: str, name: str | None = None) -> Draft:
    """Read a whole CSV or Parquet file and draft its contract; name: by default the file's.

    Raises DataError when the file cannot be read, or has no column `key` or `label`.
    """
    from handoff.table import open_table  # imports the contract of this process, which may not exist yet

    table = open_table(path)
    for wanted, option in ((key, "--key"), (label, "--label")):
        if wanted is not None and wanted not in table.names:
            raise DataError(f"{path} has no column {wanted!r} ({option}); it has: {', '.join(table.names)}")
    columns = {column: Column(column) for column in table.names}
    repeated = _Repeated()
    for batch in table.batches(list(columns), rows=65_536):
        for column in table.names:
            found = pc.value_counts(batch.column(column))
            columns[column].add(zip(*(found.field(part).to_pylist() for part in ("values", "counts")), strict=True))
            if column == key:
                repeated.add(batch.column(column).to_pylist())
    if not columns[label].cells:
        raise DataError(f"{path} has no rows to read types and ranges off")
    writer = _Writer(columns, key, label, name or _snake(path.name.partition(".")[0]) or "model")
    return writer.draft(path.name, repeated.count)


@dataclass
class _Repeated:
    """How many cells of a key column repeat an earlier one."""

    seen: set[int] = field(default_factory=set)  # hashes: a tenth of the text's memory
    count: int = 0

    def add(self, values: Iterable[Any]) -> None:
        for value in values:
            code = hash(str(value))
            self.count += code in self.seen
            self.seen.add(code)


class _Writer:
    """Turns columns into the text of a contract, and collects the questions on the way."""

    def __init__(self, columns: dict[str, Column], key: str | None, label: str, name: str) -> None:
        self.columns = columns
        self.key, self.label, self.name = key, label, name
        self.questions: list[str] = []
        self.left_out: list[str] = []
        self.used = {"Contract", "remove_null_defaults"}
        self.typing: set[str] = set()
        self.alias = "\n"  # what stands between the imports and the first class

    def draft(self, source: str, repeated_keys: int) -> Draft:
        title = "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", self.name)) or "Model"
        fields = [] if self.key is None else self._key(self.columns[self.key], repeated_keys)
        features = self._features()
        fields += [line for lines in features for line in lines]
        task, outputs = self._task(self.columns[self.label])
        if self.key is not None:
            self.used.add("FeatureSource")
            outputs += [
                "    features: FeatureSource = Field(",
                '        description="Where the features came from: store, request or default.", examples=["store"]',
                "    )",
            ]
            example = self._example_key(self.columns[self.key])
            kind = "str" if isinstance(example, str) else "int"
            outputs.insert(
                0, f'    {_field_name(self.key)}: {kind} = Field(description="The row that was scored.", '
                f"examples=[{_literal(example)}])",
            )  # fmt: skip
        if self.key is None:
            text = "One row; every feature is given."
            self._ask("there is no --key: every request gives every feature, and no feature store is used")
        else:
            text = f"One row. Only {_field_name(self.key)} is required; a feature given here overrides the stored one."
        self._ask("descriptions are the columns' names: write what a caller has to know, and add unit= to numbers")
        module = _MODULE.format(
            name=self.name, source=source, rows=self.columns[self.label].cells, title=title, input_text=text,
            typing=", ".join(sorted(self.typing)), key=None if self.key is None else _quoted(_field_name(self.key)),
            quoted_name=_quoted(self.name), questions="\n".join(map(_listed, self.questions)), alias=self.alias,
            imports="\n".join(f"    {name}," for name in sorted(self.used, key=_import_order)),
            fields="\n".join(fields), outputs="\n".join(outputs), label=_quoted(self.label), task=task[1],
        )  # fmt: skip
        if not self.typing:
            module = module.replace("from typing import \n\n", "")
        return Draft(module, self.name, task[0], len(features), tuple(self.left_out), tuple(self.questions))

    def _ask(self, question: str) -> str:
        self.questions.append(question)
        return textwrap.fill(
            f"Check: {question}",
            LINE_LENGTH,
            initial_indent="    # ",
            subsequent_indent="    #   ",
            break_long_words=False,
        )

    def _leave_out(self, column: Column, reason: str) -> None:
        self.left_out.append(column.name)
        self._ask(f"{column.name} is left out: {reason}")

    # The key.

    def _example_key(self, column: Column) -> int | str:
        first = next(iter(column.counts), "1")
        return int(float(first)) if self._is_integer_key(column) else first

    @staticmethod
    def _is_integer_key(column: Column) -> bool:
        return bool(column.counts) and column.is_whole and column.low >= 0 and column.high <= KEY_MAXIMUM

    def _key(self, column: Column, repeated: int) -> list[str]:
        lines = []
        if column.missing:
            lines.append(self._ask(f"{column.name} is blank in {column.missing:,} rows, which cannot be loaded"))
        if repeated:
            lines.append(self._ask(f"{repeated:,} rows repeat a {column.name}: the last of them is what is stored"))
        example = self._example_key(column)
        name = _field_name(column.name)
        if isinstance(example, int):
            self.used.add("KEY_MAXIMUM")
            declared = f"{name}: int = Field(ge=0, le=KEY_MAXIMUM, "
        else:
            longest = min(KEY_LONGEST, max(16, 2 * column.longest))
            declared = f"{name}: str = Field(max_length={longest}, "
        return [*lines, f'    {declared}description="The row to score.", examples=[{_literal(example)}])']

    # Features.

    def _features(self) -> list[list[str]]:
        fields: dict[str, list[str]] = {}
        for column in self.columns.values():
            if column.name in (self.key, self.label):
                continue
            name = _field_name(column.name)
            if name in fields:
                self._leave_out(column, f"its name as a field is {name}, as of the column before it")
                continue
            lines = self._feature(column, name)
            if lines:
                fields[name] = lines
        if not fields:
            raise DataError("no column can be a feature: " + "; ".join(self.questions))
        return list(fields.values())

    def _feature(self, column: Column, name: str) -> list[str]:
        if not column.counts:
            return self._leave(column, "all cells are blank")
        if len(column.counts) == 1 and not column.missing:
            return self._leave(column, f"every cell is {column.commonest!r}")
        if column.is_boolean:
            return self._boolean(column, name)
        if column.is_number:
            return self._number(column, name)
        if column.is_various or len(column.counts) > MOST_CATEGORIES:
            more = "more than " if column.is_various else ""
            return self._leave(
                column, f"text with {more}{len(column.counts):,} different values (allowed: {MOST_CATEGORIES})"
            )
        return self._category(column, name)

    def _leave(self, column: Column, reason: str) -> list[str]:
        self._leave_out(column, reason)
        return []

    def _marks(self, column: Column) -> list[str]:
        if not column.marks:
            return []
        written = ", ".join(f"{mark!r}" for mark in sorted(column.marks))
        return [self._ask(f"{column.name} holds {written}: write a blank cell instead, or the row is refused")]

    def _boolean(self, column: Column, name: str) -> list[str]:
        self.used.add("boolean")
        kind = "bool | None" if column.missing else "bool"
        example = column.commonest.lower() == "true"
        return self._field(column, name, kind, f'boolean("{_described(column.name)}", example={example})')

    def _number(self, column: Column, name: str) -> list[str]:
        lines = self._marks(column)
        is_whole = column.is_whole and max(abs(column.low), abs(column.high)) <= EXACT_INTEGER / 4
        if is_whole and not column.missing and column.high - column.low + 1 == column.cells and _is_counter(column):
            return self._leave(column, "it numbers the rows")
        low, high = _widened(column.low, column.high)
        if (column.low, column.high) == (0.0, 1.0) and column.is_whole:
            low, high = 0.0, 1.0
            lines.append(
                self._ask(f"{column.name} holds 0 and 1 only: a bool (declare it with boolean()) or a number?")
            )
        declare, kind = ("integer", "int") if is_whole else ("numeric", "float")
        self.used.add(declare)
        example: float = float(column.commonest)
        written = [f"{int(value) if is_whole else value!r}" for value in (low, high, example)]
        call = (
            f'{declare}("{_described(column.name)}", minimum={written[0]}, maximum={written[1]}, example={written[2]})'
        )
        if not any("numbers' ranges" in question for question in self.questions):
            self._ask("the numbers' ranges are the table's, widened: a value outside of one is refused with 422")
        return lines + self._field(column, name, kind + (" | None" if column.missing else ""), call)

    def _category(self, column: Column, name: str) -> list[str]:
        self.typing.add("Literal")
        self.used.add("category")
        lines, categories = self._marks(column), column.values
        if column.missing:
            lines.append(
                self._ask(
                    f"{column.name} is blank in {column.missing:,} rows, which reach the model as missing (NaN): "
                    "does it impute them, or know them? If it was fitted on a word in their place, make that one more "
                    "value, and the blank cells stand for it with Origin(missing=...)"
                )
            )
        call = f'category("{_described(column.name)}", example={_quoted(column.commonest)})'
        kind = f"Literal[{', '.join(_quoted(value) for value in categories)}]" + (" | None" if column.missing else "")
        return lines + self._field(column, name, kind, call)

    def _field(self, column: Column, name: str, kind: str, call: str) -> list[str]:
        if _snake(column.name) != name:
            self.used.add("Origin")
            self.typing.add("Annotated")
            kind = f"Annotated[{kind}, Origin({_quoted(column.name)})]"
        line = f"    {name}: {kind} = {call}"
        if len(line) <= LINE_LENGTH:
            return [line]
        head = f"    {name}: {kind} = {call.partition('(')[0]}("
        inside = call.partition("(")[2].removesuffix(")")
        if len(head) <= LINE_LENGTH:
            return [head, f"        {inside}", "    )"]
        before, _, listed = kind.partition("Literal[")
        listed, end, after = re.split(r"(\](?: \| None)?)(?=$|, Origin)", listed, maxsplit=1)
        after = end + after
        values = [f"        {value}," for value in re.findall(r'"(?:[^"\\]|\\.)*"', listed)]
        return [f"    {name}: {before}Literal[", *values, f"    {after} = {call}"]

    # The label.

    def _task(self, column: Column) -> tuple[tuple[Literal["binary", "multiclass", "regression"], str], list[str]]:
        if column.missing:
            self._ask(f"the label {column.name} is blank in {column.missing:,} rows, which cannot be trained on")
        name = _field_name(column.name)
        name = f"{name}_" if name in OUTPUTS else name
        version = f'    {VERSION_FIELD}: str = Field(description="The version that gave the answer.", examples=["1"])'
        values = column.values
        if not column.is_various and len(values) == 2:
            return self._binary(column, name, version)
        is_regression = column.is_number and (not column.is_whole or len(values) > MOST_CLASSES or column.is_various)
        if len(values) < 2 or (not is_regression and len(values) > MOST_CLASSES):
            raise DataError(
                f"the label {column.name} has {len(values):,} different values; allowed: two for a binary task, up to "
                f"{MOST_CLASSES} for several classes, or numbers for a regression"
            )
        if is_regression:
            self.used.add("regression")
            low, high = _widened(column.low, column.high)
            value = (
                f"    {name}: float = Field(ge={low!r}, le={high!r}, "
                f'description="The predicted {_words(column.name)}.", examples=[{float(column.commonest)!r}])'
            )
            return ("regression", "regression()"), [value, version]
        if column.is_number:
            self._ask(
                f"the label {column.name} has {len(values)} whole numbers, drafted as classes: is it an amount? "
                "Then it is a regression()"
            )
            values = sorted(values, key=float)
        self.used.add("multiclass")
        self.typing.add("Literal")
        listed = ", ".join(_quoted(value) for value in values)
        share = round(1 / len(values), 2)
        self.typing.add("get_args")
        alias = f"Class = Literal[{listed}]"
        if len(alias) > LINE_LENGTH:
            alias = "\n".join(["Class = Literal[", *(f"    {_quoted(value)}," for value in values), "]"])
        self.alias = f"{alias}\n\n\n"
        outputs = [
            f'    {name}: Class = Field(description="The most probable class.", examples=[{_quoted(values[0])}])',
            "    probabilities: dict[Class, float] = Field(",
            f'        description="The probability of each class.", examples=[dict.fromkeys(get_args(Class), {share})]',
            "    )",
            version,
        ]
        return ("multiclass", "multiclass(*get_args(Class))"), outputs

    def _binary(
        self, column: Column, name: str, version: str
    ) -> tuple[tuple[Literal["binary", "multiclass", "regression"], str], list[str]]:
        self.used.add("binary")
        likely = {"1", "1.0", "true", "yes", "y"}
        named = [value for value in column.values if value.lower() in likely]
        if len(named) == 1:
            positive = named[0]
        else:
            positive = min(column.values, key=lambda value: column.counts[value])
            self._ask(
                f"the probability is that of {column.name} = {positive!r}, the rarer of the two: or is the other meant?"
            )
        negative = next(value for value in column.values if value != positive)
        probability = (
            f"    {name}_probability: float = Field(ge=0, le=1, "
            f"description={_quoted(f'The probability that {_words(column.name)} is {positive}.')}, examples=[0.5])"
        )
        return ("binary", f"binary(negative={_quoted(negative)}, positive={_quoted(positive)})"), [probability, version]


def _is_counter(column: Column) -> bool:
    return all(count == 1 for count in column.counts.values())


def _snake(name: str) -> str:
    """Return a column's name as the feature loader compares it (handoff/columns.py)."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.strip())
    return re.sub(r"[\s\-./_]+", "_", words).strip("_").lower()


def _field_name(column: str) -> str:
    """Return a name that a Pydantic field can have; what Pydantic or Python reserves gets an underscore at its end."""
    name = re.sub(r"\W", "_", _snake(column)).strip("_") or "column"
    if name[0].isdigit():
        name = f"column_{name}"
    reserved = keyword.iskeyword(name) or hasattr(BaseModel, name) or name.startswith("model_")
    return f"{name}_" if reserved else name


def _words(column: str) -> str:
    return _snake(column).replace("_", " ").replace('"', "'")


def _described(column: str) -> str:
    words = _words(column)
    return f"{words[:1].upper()}{words[1:]}."


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _import_order(name: str) -> tuple[bool, bool, str]:
    """As ruff sorts them: constants, classes, functions."""
    return not name.isupper(), name.islower(), name


def _listed(question: str) -> str:
    # Backslashes and quotes of a value would end, or change, the docstring.
    safe = question.replace("\\", "/").replace('"""', "'")
    return textwrap.fill(safe, LINE_LENGTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False)


def _literal(value: int | str) -> str:
    return _quoted(value) if isinstance(value, str) else str(value)


def _widened(low: float, high: float) -> tuple[float, float]:
    """Return a range twice as wide on either side, rounded; what is never negative in the table begins at 0."""
    width = (high - low) or max(1.0, abs(high))
    step = 10.0 ** math.floor(math.log10(width))
    least = 0.0 if 0 <= low <= width else math.floor((low - width) / step) * step
    return round(least, 9), round(math.ceil((high + width) / step) * step, 9)
