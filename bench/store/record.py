"""A record: one measurement that was made, or could not be made, as one line of JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.errors import UserError
from bench.plan.cell import LATER
from bench.plan.measure import COMPANY, CROSSED, Value, measures

STATUSES = ("ok", "oom", "unsupported", "invalid", "timeout", "error")
SETTLED = frozenset({"ok", "oom", "unsupported", "invalid"})
"""What measuring again would only repeat; a time-out or an error is tried again by the next run."""


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes:
        measure, version: what was measured, in which meaning.
        fields: the cell's fields that it depends on.
        inputs: digests of the files that fields name (a recipe), so that an edited file is measured again.
        environment: id of the machine and software, described in ``environments.jsonl``.
        status: one of `STATUSES`.
        reason: why it is not "ok"; empty when it is.
        values: column -> value; None where unknown.
        samples: raw samples by name.
        started: ISO 8601, UTC.
        wall_s: seconds from the start of its process to its end.
    """

    measure: str
    version: int
    fields: Mapping[str, Any]
    inputs: Mapping[str, str]
    environment: str
    status: str
    reason: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    started: str = ""
    wall_s: float = 0.0

    @property
    def key(self) -> str:
        """What makes two records answers to the same question (on one machine)."""
        return question(self.measure, self.version, self.fields, self.inputs)

    @property
    def company(self) -> str:
        """Why its figures count as taken in company, or "": nothing is claimed of them then."""
        return str(self.values.get(COMPANY, ""))

    @property
    def crossed(self) -> str:
        """The matrix that crossed what cannot be had, where nobody asked for it in particular; else ""."""
        return str(self.values.get(CROSSED, ""))

    def line(self) -> str:
        """As one line of JSON, with its line feed."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False) + "\n"


def better(later: Record, earlier: Record) -> bool:
    """Whether the later of two answers to one question replaces the earlier one.

    What is settled replaces what is not, and what was settled before; but a figure in company does not take the place
    of one that was taken alone, nor a failure to take it again that of a figure in company.
    """
    if earlier.status == "ok" and earlier.company and later.status != "ok":
        return False
    if earlier.status == "ok" and not earlier.company and later.company:
        return False
    return later.status in SETTLED or earlier.status not in SETTLED


def question(measure: str, version: int, fields: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The text that identifies a question: equal for equal measure, version, fields and inputs."""
    return json.dumps([measure, version, dict(fields), dict(inputs)], sort_keys=True, separators=(",", ":"))


def parse(line: str, where: str) -> Record:
    """A record from its line.

    Raises:
        UserError: no JSON, or not a record's; names the place.
    """
    try:
        record = Record(**json.loads(line))
        known = measures().get(record.measure)
        missing = {name: LATER[name] for name in (known.fields if known else ()) if name in LATER}
        record = replace(record, fields={**missing, **record.fields})
    except (ValueError, TypeError) as error:
        raise UserError(f"{where} is no record: {error}") from error
    if record.status not in STATUSES:
        raise UserError(f"{where}: status '{record.status}' is none of {', '.join(STATUSES)}")
    return record
