"""Settings of the model: its network, its options and its views; each mistake is one line."""

import json
from pathlib import Path

from pipeline.config import load_settings
from tests.pipeline.configurations import GOOD, check_one_clear_line, each_of, write

VIEW = "streams.machines.model.views.1."

MISTAKES = [
    (GOOD + "    model: {network: 3}\n", ":4: streams.machines.model.network is 3; it takes text: put quotes"),
    (GOOD + "    model: {network: [linear]}\n", ":4: streams.machines.model.network is ['linear']; it takes text"),
    (
        GOOD + "    kind: features\n    model: {views: [{window: 8}]}\n",
        ":5: streams.machines.model.views: it needs `kind: series`: records of features are judged by one view",
    ),
    (
        GOOD + "    model: {architecture: vanilla, views: [{window: 8}]}\n",
        ":4: streams.machines.model.views: they need `architecture: default`; name a `network` for them instead",
    ),
    (
        GOOD + "    model:\n      window: 8\n",
        ":5: streams.machines.model.window: it stands beside `model`, or in one of its `views`; move it there",
    ),
    (GOOD + "    model: {views: []}\n", ":4: streams.machines.model.views is empty; write at least one below it"),
    (GOOD + "    model: {views: 3}\n", ":4: streams.machines.model.views is 3; it takes a list"),
    (
        GOOD + "    model:\n      views:\n" + "        - window: 4\n" * 17,
        ":5: streams.machines.model.views lists 17; it takes 16 or fewer",
    ),
    *(
        (GOOD + f"    model:\n      views:\n        - window: 4\n        - {{{view}}}\n", f":7: {VIEW}{said}")
        for view, said in [
            ("judged: 2", "window is missing; add it"),
            ("window: 1", "window is 1; it takes 2 or more"),
            ("window: 4097", "window is 4097; it takes 4096 or less"),
            ("window: yes", "window: True is no number; write one"),
            ("window: 4, windw: 4", "windw is no setting; did you mean 'window'?"),
            ("window: 4, architecture: 3", "architecture is 3; it takes text: put quotes around it"),
            (
                "window: 4, inputs: value",
                "inputs is 'value'; it takes 'values', 'values and differences' or 'centred'; did",
            ),
            ("window: 4, judged: 0", "judged is 0; it takes 1 or more"),
            ("window: 4, judged: two", "judged is 'two'; it takes a whole number"),
            ("window: 4, measure: all", "measure is 'all'; it takes 'features' or 'whole'"),
            ("window: 4, power: 0", "power is 0; it takes more than 0"),
            ("window: 4, power: 101", "power is 101; it takes 100.0 or less"),
            ("window: 4, softness: -1", "softness is -1; it takes 0.0 or more"),
            ("window: 4, softness: yes", "softness: True is no number; write one"),
            ("window: 4, fade: quick", "fade is 'quick'; it takes a number"),
            ("window: 4, fade: [1]", "fade is [1]; it takes a number"),
            ("window: 4, fade: .inf", "fade is inf; it takes 100.0 or less"),
            ("window: 4, offset: 101", "offset is 101; it takes 100.0 or less"),
            ("window: 4, offset: -101", "offset is -101; it takes -100.0 or more"),
        ]
    ),
]


@each_of(MISTAKES)
def test_a_mistake_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    check_one_clear_line(tmp_path, text, said)


def test_options_of_the_model_pass_through(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD + "    model: {architecture: vanilla, seed: 3, hidden: 9}\n"))
    assert settings.streams["machines"].model.options == {"seed": 3, "hidden": 9}


def test_views_are_taken_key_by_key(tmp_path: Path) -> None:
    view = {
        "architecture": "vanilla",
        "window": 8,
        "inputs": "centred",
        "judged": 2,
        "measure": "whole",
        "power": 2.0,
        "softness": 0.0,
        "fade": 0.5,
        "offset": -0.5,
    }
    model = {"network": "sparse", "views": [view, {"window": 4}]}
    settings = load_settings(write(tmp_path, GOOD + f"    model: {json.dumps(model)}\n"))
    taken = settings.streams["machines"].model
    assert [each.model_dump(exclude_none=True) for each in taken.views or ()] == [view, {"window": 4}]
    assert taken.options == {"network": "sparse"}
