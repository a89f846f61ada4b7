"""A recorder's process ends at any call, also in the midst of a poll: no row is lost, and none is there twice."""

from typing import Any

import pytest

from pipeline.protocols import TopicPartition
from pipeline.snapshots import Limits
from tests.arrows import arrow_of
from tests.recording import MUCH, PLACE, Bench, counted, finish, packed_bench, payloads, unflagged
from tests.streams import series_payloads


class Killed(BaseException):
    """The process ends here."""


class Fate:
    """Ends the process before or after one of the calls to what is outside of it."""

    def __init__(self, at: int, after: bool) -> None:
        self.left, self.after = at, after

    def wrap(self, part: Any) -> Any:
        fate = self

        class Outside:
            def __getattr__(self, name: str) -> Any:
                found = getattr(part, name)
                if name not in ("poll", "commit", "start", "committed", "create", "list", "sizes", "get", "delete"):
                    return found

                def call(*arguments: Any) -> Any:
                    fate.left -= 1
                    if fate.left == 0 and not fate.after:
                        raise Killed
                    answer = found(*arguments)
                    if fate.left == 0:
                        raise Killed
                    return answer

                return call

        return Outside()


@pytest.mark.parametrize("after", [False, True])
def test_an_end_between_any_two_lines_loses_and_repeats_nothing(after: bool) -> None:
    """Small files are merged between the polls, and what was merged is removed."""
    at, ended = 0, True
    while ended:
        at += 1
        bench, merged = Bench(partitions=1), counted("snapshot_files_merged")
        bench.keep(Limits())
        bench.fill(payloads(60))
        options: dict[str, Any] = {"file_rows": 5, "max_poll_records": 6}
        try:
            finish(bench.recorder(Fate(at, after).wrap, **options))
            ended = False
        except Killed:
            bench.broker.members.clear()
            finish(bench.recorder(**options))
        assert unflagged(bench.found()) == unflagged(bench.expected()), at
        assert bench.broker.committed == {PLACE: 60}
    assert at > 60
    assert counted("snapshot_files_merged") > merged


@pytest.mark.parametrize("after", [False, True])
def test_an_end_in_the_middle_of_a_poll_loses_and_repeats_nothing(
    monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    packed = packed_bench(monkeypatch)
    at, ended = 0, True
    while ended:
        at += 1
        bench = Bench(settings=packed.settings)
        bench.fill(arrow_of(series_payloads(12), cuts=range(0, 48, 7)), days=1)
        try:
            finish(bench.recorder(Fate(at, after).wrap, **MUCH))
            ended = False
        except Killed:
            bench.broker.members.clear()
            finish(bench.recorder(**MUCH))
        assert unflagged(bench.found()) == unflagged(bench.expected()), at
    assert at > 20


def test_a_file_is_there_before_its_end_is_committed_and_a_restart_goes_on_behind_it() -> None:
    bench, ends = Bench(partitions=1), []  # type: tuple[Bench, list[int]]
    bench.fill(payloads(100))

    class Committing:
        """Notes what is committed, and ends the process at the third file's end."""

        def __init__(self, source: Any) -> None:
            self.source = source

        def commit(self, offsets: dict[TopicPartition, int]) -> None:
            (kept,) = bench.snapshots.kept("machines", {PLACE: "metrics#1"}).values()
            assert offsets[PLACE] <= kept.ranges[-1].end
            ends.append(offsets[PLACE])
            if len(ends) == 4:
                raise Killed
            self.source.commit(offsets)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.source, name)

    recorder = bench.recorder(lambda part: part if part is bench.storage else Committing(part), file_rows=10)
    with pytest.raises(Killed):
        finish(recorder)
    assert bench.broker.committed[PLACE] == ends[2] < ends[3]
    bench.broker.members.clear()
    again = bench.recorder()
    again.partitions.follow_assignment()
    assert again.partitions.open[PLACE].begin == ends[3]
