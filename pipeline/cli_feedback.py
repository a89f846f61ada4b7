"""The command `offkey feedback`."""

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_options import AsJson, ConfigPath, moment_ms
from pipeline.cli_who_when import now_ms, who
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.connectors.connection import Connection
    from pipeline.feedback import Book, Feedback, Verdict
    from pipeline.incident_log import Course
    from pipeline.protocols import Message


def feedback(
    config: ConfigPath,
    incident: Annotated[
        str | None, typer.Argument(metavar="[INCIDENT]", help="`incident` of an alert, or how it begins.")
    ] = None,
    verdict: Annotated[
        str | None, typer.Argument(metavar="[VERDICT]", help="false_alarm, confirmed or expected.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="T", help="With `expected`: how long, as 2026-03-01T22:00:00Z, or from now, as in 36h."
        ),
    ] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for people.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show what was said.")] = False,
    retract: Annotated[bool, typer.Option("--retract", help="Take back what was said of the incident.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what an incident was: workers heed it from their next records on, and retraining does.

    What was said of an incident before is replaced.
    """
    from pipeline.config import load_settings
    from pipeline.connectors.connection import Connection

    settings = load_settings(config)
    connection, said = Connection.of(settings.kafka), [verdict, until, note]
    if listed:
        if retract or incident is not None or any(text is not None for text in said):
            raise ConfigError("--list shows what was said of all incidents; give nothing but CONFIG with it")
        _list(_book(settings, connection), as_json)
    elif incident is None:
        raise ConfigError("which incident? name one, as in: offkey feedback CONFIG INCIDENT false_alarm; or --list")
    elif retract:
        if any(text is not None for text in said):
            raise ConfigError("--retract takes back what was said; give no verdict with it, nor --until or --note")
        _retract(settings, connection, incident, as_json)
    else:
        chosen = _verdict(verdict)
        until_ms = _until_ms(chosen, until)
        _give(settings, connection, incident, chosen, until_ms, _note(note), as_json)


def _give(
    settings: "Settings",
    connection: "Connection",
    asked: str,
    verdict: "Verdict",
    until_ms: int | None,
    note: str,
    as_json: bool,
) -> None:
    import msgspec

    from pipeline.connectors.kafka import KafkaLog
    from pipeline.feedback import message
    from pipeline.incident_log import feedback_on, looked_up, read_incidents
    from pipeline.mistakes import unknown

    _check_topic(settings, connection, kept=True)
    topic = settings.topics.alerts
    found = read_incidents(KafkaLog(connection, topic), lambda course: course.incident.startswith(asked))
    course = looked_up(found, asked, topic)
    if course.stream not in settings.streams:
        raise ConfigError(f"incident {course.incident}: {unknown('stream', course.stream, settings.streams)}")
    before = _book(settings, connection).said.get(course.incident)
    given = feedback_on(course, verdict, by=who(), at_ms=now_ms(), until_ms=until_ms, note=note)
    _publish(settings, connection, message(given, settings.topics.feedback))
    if as_json:
        print(msgspec.json.encode(given).decode())
        return
    print(f"{course.incident}: {verdict}" + (f", was {before.verdict}" if before else ""))
    print(f"  {_told(course)}")
    print(f"  {_effect(given)}")


def _retract(settings: "Settings", connection: "Connection", asked: str, as_json: bool) -> None:
    import json

    from pipeline.feedback import tombstone

    _check_topic(settings, connection, kept=False)
    said = _book(settings, connection).said
    matching = [asked] if asked in said else [incident for incident in said if incident.startswith(asked)]
    if not matching:
        raise ConfigError(f"nothing was said of incident {asked!r:.80}; see: offkey feedback CONFIG --list")
    if len(matching) > 1:
        raise ConfigError(
            f"incident {asked!r}: {len(matching)} begin so; write more of it: {', '.join(matching[:5])}"
        )
    _publish(settings, connection, tombstone(matching[0], settings.topics.feedback))
    if as_json:
        print(json.dumps({"incident": matching[0], "retracted": said[matching[0]].verdict}))
    else:
        print(f"{matching[0]}: {said[matching[0]].verdict} is taken back; thresholds are as before it")


def _list(book: "Book", as_json: bool) -> None:
    import msgspec

    from pipeline.letters.report import printable

    rows = sorted(book.said.values(), key=lambda each: each.at_ms)
    for each in rows:
        if as_json:
            print(msgspec.json.encode(each).decode())
            continue
        until = "" if each.until_ms is None else f" until {_moment(each.until_ms)}"
        note = f": {each.note}" if each.note else ""
        print(f"{printable(each.incident)}: {each.verdict}{until}")
        print(f"  {printable(_told(each))}")
        print(f"  said {_moment(each.at_ms)} by {printable(each.by + note)}")
    if not rows and not as_json:
        print("nothing was said of any incident")
    if book.unreadable:
        print(f"offkey: messages that could not be read and are left out: {book.unreadable}", file=sys.stderr)


def _check_topic(settings: "Settings", connection: "Connection", *, kept: bool) -> None:
    """See that the topic takes what is said, and with `kept` that it stays there.

    Raises:
        ConfigError: the topic is not there, may not be written, or forgets in time.
    """
    from pipeline.connectors.kafka import KafkaCluster
    from pipeline.feedback import require_compacted

    topic = settings.topics.feedback
    with contextlib.closing(KafkaCluster(connection)) as cluster:
        cluster.topic(topic, "WRITE")
        policy = cluster.setting(topic, "cleanup.policy") if kept else None
    require_compacted(topic, policy)


def _book(settings: "Settings", connection: "Connection") -> "Book":
    from pipeline.connectors.kafka import KafkaLog
    from pipeline.feedback import read_book

    topic = settings.topics.feedback
    return read_book(KafkaLog(connection, topic), topic)


def _publish(settings: "Settings", connection: "Connection", said: "Message") -> None:
    from pipeline.connectors.kafka import KafkaPublisher

    timeout_s = settings.kafka.delivery_timeout
    with contextlib.closing(KafkaPublisher(connection, timeout_s)) as publisher:
        publisher.send(said)
        publisher.flush(timeout_s)


def _verdict(asked: str | None) -> "Verdict":
    from pipeline.feedback import VERDICTS
    from pipeline.mistakes import unknown

    if asked is None:
        raise ConfigError(f"what was it? write one of {', '.join(VERDICTS)} behind the incident, or --retract")
    for verdict in VERDICTS:
        if verdict == asked:
            return verdict
    raise ConfigError(unknown("verdict", asked, VERDICTS))


def _until_ms(verdict: "Verdict", text: str | None) -> int | None:
    """Return the end of what is expected, in ms since the epoch.

    Raises:
        ConfigError: it is none, it has passed, or it is missing or does not belong to the verdict.
    """
    from pipeline.stages.decode import MAX_TIME_MS

    if verdict != "expected":
        if text is not None:
            raise ConfigError(f"--until belongs to `expected`, not to {verdict}; leave it out")
        return None
    until_ms = moment_ms("--until", text, now_ms, ahead=True)
    if until_ms is None:
        raise ConfigError("`expected` needs an end: --until 2026-03-01T22:00:00Z, or from now, as in --until 36h")
    if until_ms <= now_ms():
        raise ConfigError(f"--until {text}: that has passed; write a moment to come")
    if until_ms > MAX_TIME_MS:
        raise ConfigError(f"--until {text}: that is too far away; write a moment before the year 2100")
    return until_ms


def _note(text: str | None) -> str:
    from pipeline.feedback import MOST_NOTE

    if text is not None and (len(text) > MOST_NOTE or not text.isprintable()):
        raise ConfigError(f"--note: it takes one line of up to {MOST_NOTE} characters; write less")
    return text or ""


def _told(course: "Course | Feedback") -> str:
    ended = "open" if course.ended_ms is None else f"ended {_moment(course.ended_ms)}"
    series = f" {course.series}" if course.series else ""
    told = f"{course.stream}{series}, opened {_moment(course.opened_ms)}, {ended}"
    return told if course.peak is None else f"{told}; highest score {course.peak:.1f}"


def _effect(given: "Feedback") -> str:
    from pipeline.stages.feedback import LOWERED, margin

    if given.subject != "deviation" or not given.deviations:
        what = "it has no score" if given.subject != "deviation" else "its alerts tell of no feature"
        kept = "" if given.verdict == "false_alarm" else "; retraining leaves its span out"
        return f"{what}, so no threshold moves{kept}"
    where = given.series or "the stream"
    if given.verdict == "false_alarm":
        assert given.peak is not None
        told = f"deviations of its kind in {where} alert above {given.peak + float(margin(1)):.1f} from now on"
        return told if given.ended_ms is not None else f"{told}; say it again when it has ended, should it rise"
    if given.verdict == "confirmed":
        return f"deviations of its kind in {where} alert {LOWERED:.1f} earlier; retraining leaves its span out"
    assert given.until_ms is not None
    until = _moment(given.until_ms)
    return f"deviations of its kind in {where} do not alert until {until}; retraining leaves {where} out until then"


def _moment(time_ms: int) -> str:
    from datetime import UTC, datetime, timedelta

    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    except OverflowError:
        return str(time_ms)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
