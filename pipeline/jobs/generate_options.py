"""What `offkey generate` is asked for, and that it can be made; this is seen before anything is read."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.detector import Detector
from models.injection import Fault, faults_of
from models.sampling_networks import sampling_view
from models.spec import ImageShape, Kind
from pipeline.errors import ConfigError
from pipeline.jobs.coding import require_features
from pipeline.jobs.generated_images import Format
from pipeline.jobs.generated_rows import check_names


@dataclass(frozen=True)
class Options:
    """What to make."""

    kind: Kind
    rows: int | None = None
    """Records, images, or rows of each series."""
    series: tuple[str, ...] = ()
    """Names; empty: all."""
    at_ms: int | None = None
    """Vary the window that ends then, of the one series that is named."""
    like: str | None = None
    """Vary this record or image, as `one_record` names it."""
    variations: int = 10
    strength: float = 1.0
    window: int | None = None
    anomalies: int = 0
    faults: tuple[Fault, ...] = ()
    size: float = 6.0
    points: int | None = None
    seed: int = 0
    report: bool = True
    image: ImageShape | None = None
    format: Format = "png"
    """Of images: what is written."""

    @property
    def varies(self) -> bool:
        return self.at_ms is not None or self.like is not None


@dataclass(frozen=True)
class Model:
    """A detector to sample from, and what it is called."""

    detector: Detector
    name: str


def check_options(options: Options, features: Sequence[str]) -> None:
    """See that what is asked for can be made, before anything is read.

    Raises:
        ConfigError: it cannot.
    """
    check_names(features)
    kind = options.kind
    if kind != "series":
        for option, given in (("--series", options.series), ("--at", options.at_ms), ("--window", options.window)):
            if given:
                raise ConfigError(
                    f"{option}: records of `kind: {kind}` belong to no series; leave it out"
                    + ("; --like names a record to vary" if option == "--at" else "")
                )
    elif options.like is not None:
        raise ConfigError(
            f"--like {options.like}: rows of series are varied by windows; name one with --series and --at"
        )
    if options.at_ms is not None and len(options.series) != 1:
        raise ConfigError(f"--at is a moment of one series, and {len(options.series)} are named; give one --series")
    if options.varies and options.anomalies:
        option = "--like" if options.at_ms is None else "--at"
        raise ConfigError(f"--inject: variations take no anomalies; leave {option} or --inject out")
    known = faults_of(kind, len(features))
    for fault in options.faults:
        if fault not in known:
            what = kind if kind == "images" else f"{kind} of {len(features)} features"
            raise ConfigError(f"--fault {fault}: {what} have {', '.join(known)}")
    if options.points and kind != "series" and options.points > 1:
        raise ConfigError(
            f"--points {options.points}: a record of `kind: {kind}` is judged by itself; leave it out"
        )


def check_model(model: Model, options: Options, features: Sequence[str]) -> None:
    """See that a model samples, and what is asked for.

    Raises:
        ConfigError: it is of another kind or other features, or cannot sample.
    """
    spec = model.detector.spec
    if spec.kind != options.kind:
        raise ConfigError(
            f"{model.name}: it is of `kind: {spec.kind}`, and the stream of {options.kind}; take another model"
        )
    if spec.image != options.image:
        raise ConfigError(f"{model.name}: it is for images of {spec.image}, and these are of {options.image}")
    require_features(spec.features, features, model.name)
    try:
        sampling_view(model.detector, model.name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
