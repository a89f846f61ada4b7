"""Feedback in a run with faults: somebody says what incidents were, by what was alerted, and takes some of it back.

It goes through the real topic, as `offkey feedback` sends it, and workers hear it by themselves. When each
partition adopts it depends on the machine; from which record on it has acted is told by the logs of adoptions
alone.
"""

import json
import random
from collections.abc import Iterator

from pipeline.feedback import Verdict
from pipeline.incident_log import Course, IncidentLog, feedback_on
from tests.chaos.stage import Stage
from tests.streams import STEP_MS

_MOST_LOOKS = 15
"""So often it is looked for an alert that tells of feedback, a third of a second apart; there may be none."""


def say(stage: Stage, draw: random.Random) -> Iterator[float]:
    """Say of one incident that it was a false alarm and of another what else it was, and take one of both back.

    Each is waited for until all partitions have adopted it. Between them an alert has the time to tell of it.

    At least once, nobody sleeps meanwhile: see `tests.chaos.faults.swap`.
    """
    courses: list[Course] = []

    def told() -> bool:
        courses[:] = [course for course in _courses(stage) if course.stream == "machines"]
        return len(courses) > 1

    yield from stage.look_until("two incidents are told", told)
    while stage.asleep and not stage.exactly_once:
        yield 0.2
    stage.adopting += not stage.exactly_once
    other: Verdict = draw.choice(["confirmed", "confirmed", "expected"])
    chosen: list[tuple[Course, Verdict]] = list(zip(draw.sample(courses, 2), ["false_alarm", other], strict=True))
    draw.shuffle(chosen)
    for course, verdict in chosen:
        yield from _say(stage, draw, course, verdict)
    yield from stage.look_until("an alert tells of it", lambda: _is_told(stage), _MOST_LOOKS, required=False)
    (course, verdict) = draw.choice(chosen)
    stage.crew.note(f"{verdict} of {course.incident} is taken back")
    stage.take_back(course.incident)
    yield from _adopted(stage, course.stream)
    stage.adopting -= not stage.exactly_once


def _say(stage: Stage, draw: random.Random, course: Course, verdict: Verdict) -> Iterator[float]:
    until_ms = course.told_ms + STEP_MS * draw.randrange(20, 200) if verdict == "expected" else None
    stage.crew.note(f"{verdict}: {course.incident} of {course.series}")
    stage.say(feedback_on(course, verdict, by="chaos", at_ms=0, until_ms=until_ms))
    yield from _adopted(stage, course.stream)


def _adopted(stage: Stage, stream: str) -> Iterator[float]:
    name = stage.words(stream).name
    return stage.look_until(
        f"words {name} on {stream} are adopted",
        lambda: stage.has_adopted(stream, lambda last: last.words == name),
    )


def _courses(stage: Stage) -> list[Course]:
    """Return the incidents that feedback can be given on with an effect, in the order of their ids."""
    found = IncidentLog(lambda course: bool(course.deviations))
    found.take(stage.read("alerts"))
    return [found.courses[incident] for incident in sorted(found.courses)]


def _is_told(stage: Stage) -> bool:
    """Tell whether an alert names an incident of which something is said now."""
    bodies = [json.loads(record.value or b"") for record in stage.read("alerts")]
    return any(stage.said.keys() & set(body.get("feedback", {}).get("incidents", [])) for body in bodies)
