"""The configuration file: YAML, overridden by the environment, checked as a whole.

Every value can come from the environment as `OFFKEY_` and the path of its key with `__` between the parts:
`OFFKEY_KAFKA__BOOTSTRAP_SERVERS`. An unknown key is refused with the nearest one that there is, and each
error names the file, the line and the key. `config.schema.json` beside this module is generated from it.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from models.spec import ImageShape
from pipeline.alert_settings import AlertSettings
from pipeline.environment import Environment
from pipeline.errors import ConfigError
from pipeline.kafka_settings import KafkaSettings
from pipeline.kind_settings import ImageSettings, check_kind
from pipeline.log_settings import LogSettings
from pipeline.metrics_settings import MetricsSettings
from pipeline.mistakes import explain, mistake_at, nearest, no_setting, unknown
from pipeline.notify_settings import NotifySettings, slack_addresses_written
from pipeline.record_settings import RecorderSettings, RecordSettings
from pipeline.retrain_settings import RetrainSettings, SchedulerSettings
from pipeline.secret_settings import secrets_written
from pipeline.setting_types import (
    LARGEST,
    Duration,
    DurationOrNever,
    FieldPath,
    FieldPaths,
    Section,
    StorageUrl,
    Topic,
    Wait,
    Whole,
    no_truth,
    split_path,
)
from pipeline.yaml_lines import Keys, YamlError, read_yaml, shown

_STREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)


class TopicSettings(Section):
    alerts: Topic = "offkey.alerts"
    """Where alerts are published."""
    dead_letters: Topic = "offkey.dead-letters"
    """Where records go that cannot be scored, bytes untouched, with the reason in headers."""
    feedback: Topic = "offkey.feedback"
    """What people say about incidents, by `offkey feedback`; compacted. All workers read all of it."""
    control: Topic = "offkey.control"
    """Where `offkey retrain --now` asks `offkey schedule`; its one partition's owner is who trains."""


class WorkerSettings(Section):
    checkpoint_every: Wait = 10
    """How often state is written to storage: at most so much is replayed after a crash."""
    retry_deadline: Wait = 60
    """How long the broker may be away before the worker ends, or storage where state has to be restored."""
    watch_every: Wait = 10
    """How often the registry is asked whether a stream has another champion, which partitions then adopt."""
    stop_timeout: Wait = 10
    """How long a stop may take, after SIGTERM or Ctrl-C; what is not written by then is replayed."""
    max_rejects_in_a_row: Whole = 10_000
    """So many rejects without a good record stop the worker: the configuration is probably wrong."""


class ViewSettings(Section):
    """One way to look at a series; what is left out is as for a single architecture."""

    architecture: str | None = None
    """The view's network; by default the model's `network`."""
    window: Annotated[int, Field(ge=2, le=4096), BeforeValidator(no_truth)]
    """Points that it sees."""
    inputs: Literal["values", "values and differences", "centred"] | None = None
    """centred: less the window's own mean, so that shapes count and levels do not."""
    judged: Whole | None = None
    """The newest points whose errors count."""
    measure: Literal["features", "whole"] | None = None
    """features: each by what is usual for it, as logarithms. whole: the plain mean of all errors."""
    largest: Whole | None = None
    """Features that count, strangest first; by default all."""
    power: Annotated[float, Field(gt=0, le=100), BeforeValidator(no_truth)] | None = None
    """Of the mean over features: 1 for what many show, higher for what few show."""
    softness: Annotated[float, Field(ge=0, le=1000), BeforeValidator(no_truth)] | None = None
    """Share of the median feature's usual error that is added to each one's own: quiet features count less."""
    fade: Annotated[float, Field(ge=0, le=100), BeforeValidator(no_truth)] | None = None
    """How much of a window's error is lost for each point of distance, in logarithms; null forgets at once."""
    offset: Annotated[float, Field(ge=-100, le=100), BeforeValidator(no_truth)] | None = None
    """How far this view has to exceed the others to be heard, in logarithms."""


class ModelSettings(BaseModel):
    """An architecture; every other key is an option of it or of the training, such as `seed` or `max_seconds`."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)
    architecture: str = "default"
    """default: views of a linear autoencoder, for features one of a denoising, for images one of a convolutional
    one; `network` names another. Or one view of linear, vanilla, sparse, denoising, variational, convolutional,
    recurrent, residual, or one a package adds."""
    network: str | None = None
    """An architecture for the views of the default, and for those below."""
    views: Annotated[list[ViewSettings], Field(min_length=1, max_length=16)] | None = None
    """Views in place of the default's."""
    scaling: Literal["range", "standard", "robust"] | None = None
    """range: by smallest and largest value, usual for series. standard: by mean and standard deviation, usual for
    features and images. robust: by the median and the range of nine tenths."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if "window" in self.options:
            raise mistake_at(("window",), "it stands beside `model`, or in one of its `views`; move it there")
        for key, value in self.options.items():
            if isinstance(value, int) and abs(value) > LARGEST:
                raise mistake_at((key,), f"{value!r:.60} is too large to reckon with; write a smaller number")
        return self

    @property
    def options(self) -> dict[str, Any]:
        chosen = {"network": self.network, "scaling": self.scaling}
        named = {name: value for name, value in chosen.items() if value is not None}
        return {**named, **(self.__pydantic_extra__ or {})}


class StreamSettings(Section):
    topic: Topic
    """Topic to read."""
    kind: Literal["series", "features", "images"] = "series"
    """series: points of time series, judged in windows. features: records judged by themselves. images: pictures,
    each judged by itself."""
    format: Literal["json", "arrow", "png", "jpeg"] = "json"
    """What a record's value holds. json: one object. arrow: an Arrow IPC stream of any number of rows, of images
    one column of fixed-shape tensors. png, jpeg: one image."""
    image: ImageSettings | None = None
    """The size of the images, of `kind: images`."""
    series: FieldPaths = None
    """Fields that name a record's or row's series; by default the record's key does."""
    time: FieldPath | None = None
    """Field of the event time; by default the record's Kafka timestamp."""
    time_unit: Literal["ms", "s", "us", "ns", "iso8601"] = "ms"
    """Unit of that field since 1970, or iso8601 for text; a text without a zone is UTC. A column of Arrow's
    timestamps says its own."""
    max_ahead: Duration = 3600
    """An event time further ahead of the Kafka timestamp makes a record a dead letter."""
    features: FieldPaths = None
    """Fields to judge, `cpu.load` for nested ones; by default every number found in a sample at training."""
    window: Annotated[int, Field(ge=2, le=4096), BeforeValidator(no_truth)] | None = None
    """Points that a single architecture judges one with, itself included; by default 32. Views bring their own."""
    missing: Literal["reject", "hold"] = "reject"
    """A null or absent feature rejects the record, or takes the series' last value for some points."""
    hold_points: Whole = 5
    """For how many points in a row, with `missing: hold`; a held point never raises an alert."""
    max_series: Whole = 1_000_000
    """Most series held, each partition its share; beyond, a new one takes the place of the least recently seen."""
    series_ttl: Annotated[DurationOrNever, Field(json_schema_extra={"default": "never"})] = None
    """After how long without a record, by the time of its partition's records, a series is forgotten; or never."""
    max_record_bytes: Whole = 1_048_576
    """A larger value is rejected; of Arrow also one that is larger unpacked, or has more rows times columns."""
    model: ModelSettings = ModelSettings()
    """The autoencoder."""
    alerts: AlertSettings = AlertSettings()
    """When to alert."""
    record: RecordSettings = RecordSettings()
    """What is kept of its records, by `offkey record`."""
    retrain: RetrainSettings = RetrainSettings()
    """When it is trained again, by `offkey schedule`; by default only when it is asked to."""
    start: Literal["earliest", "latest", "fail"] = "earliest"
    """Where to begin at the first start, and when committed offsets have expired."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.format == "arrow" and self.time_unit == "iso8601":
            raise mistake_at(
                ("time_unit",), "`format: arrow` takes timestamps or numbers as time, not text; leave it out"
            )
        check_kind(self)
        if self.window is not None and (self.model.architecture == "default" or self.kind != "series"):
            raise mistake_at(("window",), "it belongs to a single architecture of a series; leave it out here")
        if self.model.views and self.model.architecture != "default":
            raise mistake_at(
                ("model", "views"), "they need `architecture: default`; name a `network` for them instead"
            )
        read = [("time", self.time)] if self.time else []
        read += [(key, path) for key in ("series", "features") for path in getattr(self, key) or []]
        read.sort(key=lambda at: split_path(at[1]))
        # Sorted, a field comes just before the first one inside it.
        for (outer_key, outer), (key, inner) in pairwise(read):
            names = split_path(outer)
            if names == split_path(inner):
                raise mistake_at((key,), f"{inner!r} is in `{outer_key}` too; take it out of one of them")
            if names == split_path(inner)[: len(names)]:
                raise mistake_at(
                    (key,), f"{inner!r} lies inside {outer!r} in `{outer_key}`, which then is no value; keep one"
                )
        return self

    @property
    def image_shape(self) -> ImageShape | None:
        return None if self.image is None else self.image.shape


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="OFFKEY_",
        case_sensitive=True,  # As the file is; `Environment` takes its own names in any case.
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )
    kafka: KafkaSettings = KafkaSettings()
    """The cluster."""
    storage: StorageUrl = "file:///var/lib/offkey"
    """Where models, checkpoints and snapshots are kept: file:///folder or s3://bucket/prefix."""
    topics: TopicSettings = TopicSettings()
    """Topics that offkey writes."""
    streams: Annotated[dict[str, StreamSettings], Field(min_length=1)]
    """What to watch, by a name of your choice."""
    metrics: MetricsSettings = MetricsSettings()
    """The endpoint of a worker, for Prometheus and for probes."""
    worker: WorkerSettings = WorkerSettings()
    """How the worker goes about it."""
    recorder: RecorderSettings = RecorderSettings()
    """How the recorder goes about it."""
    scheduler: SchedulerSettings = SchedulerSettings()
    """How the scheduler goes about it."""
    notify: NotifySettings = NotifySettings()
    """Who is told of incidents, by `offkey notify`."""
    logs: LogSettings = LogSettings()
    """What is said on standard error."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train and score; auto takes a GPU where there is one."""
    _places: Mapping[Keys, str] = PrivateAttr({(): "the settings"})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)
        return Environment(settings_cls, init_settings.init_kwargs), init_settings

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.topics.alerts == self.topics.dead_letters:
            raise mistake_at(("topics",), "alerts and dead letters both go to one topic; give each its own")
        own = self.topics.alerts, self.topics.dead_letters, self.topics.feedback, self.topics.control
        for name in ("feedback", "control"):
            if own.count(getattr(self.topics, name)) > 1:
                raise mistake_at(("topics", name), "another topic of offkey has that name; give it its own")
        owner: dict[str, str] = {}
        for name, stream in self.streams.items():
            key = ("streams", name)
            if not _STREAM.fullmatch(name):
                raise mistake_at(
                    key, "a stream's name has letters, digits, dots, dashes and underscores only, 200 at most"
                )
            if stream.topic in owner:
                raise mistake_at(
                    (*key, "topic"), f"stream {owner[stream.topic]} reads topic {stream.topic} too; keep one"
                )
            if stream.topic in own:
                raise mistake_at(
                    (*key, "topic"), f"topic {stream.topic} is one that offkey writes; set another one"
                )
            owner[stream.topic] = name
        return self

    def place_of(self, *keys: str) -> str:
        """Return where a key is set: a file and line, or a variable of the environment."""
        return self._places[nearest(self._places, keys)]

    def chosen(self, asked: Sequence[str] | None) -> list[str]:
        """Return the names of the streams that are asked for, each once; all where none is.

        Raises:
            ConfigError: there is no such stream; the nearest one is named.
        """
        names = list(dict.fromkeys(asked or self.streams))
        for name in names:
            if name not in self.streams:
                raise ConfigError(unknown("stream", name, self.streams))
        return names


def load_settings(path: Path) -> Settings:
    """Read and check a configuration file, and the environment.

    Raises:
        ConfigError: one line for each mistake.
    """
    text = _text_of(path)
    try:
        document = read_yaml(text)
    except YamlError as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from error
    values = document.values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no settings; write some with: offkey init --force {path}")
    places = {keys: f"{path}:{line}" for keys, line in document.lines.items()}
    for key in values:
        if key.startswith("_"):
            # BaseSettings takes arguments of its own that begin so.
            raise ConfigError(f"{places[key,]}: {no_setting(Settings, (key,))}")
    for keys in (*secrets_written(values, Settings), *slack_addresses_written(values)):
        raise ConfigError(
            f"{places[nearest(places, keys)]}: {shown(keys)} is a secret; name a file that holds it as "
            f"{keys[-1]}_file, or set the environment variable OFFKEY_{'__'.join(keys).upper()}"
        )
    variables = list(Environment(Settings, values).variables())
    for variable in variables:
        for depth in range(1, len(variable.keys)):
            places.setdefault(variable.keys[:depth], f"environment variable {variable.name}")
        places[variable.keys] = f"environment variable {variable.name}"
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(explain(error, Settings, places, variables)) from error
    settings._places = places
    return settings


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: is not there; write one with: offkey init {path}") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); name a file that this user may read"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
