"""What a run can be told, as plain dataclasses, one file a concern.

The command line makes its flags from them, recipes fill them, run folders store them. Nothing heavy
is imported here, so `--help` answers at once.
"""

from unseen.settings.clusters import ClusterSettings
from unseen.settings.drawing import DrawSettings
from unseen.settings.evaluation import Draw, EvaluationSettings, TableFormat, check_threshold
from unseen.settings.export import EXPORTS, ExportSettings, FormatName, known_formats
from unseen.settings.inference import (
    InferenceSettings,
    Refinement,
    change_inference,
    check_segments_used,
)
from unseen.settings.legacy import LEGACY_NAMES, LEGACY_VALUES, from_legacy, update_legacy
from unseen.settings.model import ModelSettings, flat, is_own
from unseen.settings.segments import ExtractionSettings, SpectralSettings
from unseen.settings.serving import ServeSettings
from unseen.settings.tiles import TileSettings
from unseen.settings.training import (
    LOGGER_EXTRAS,
    TRAIN_RANGES,
    TRANSFORM_RANGES,
    Logger,
    Optimizer,
    Precision,
    Regime,
    Schedule,
    Strategy,
    TrainSettings,
    TransformSettings,
    UnseenPixels,
)

__all__ = [
    "EXPORTS",
    "LEGACY_NAMES",
    "LEGACY_VALUES",
    "LOGGER_EXTRAS",
    "TRAIN_RANGES",
    "TRANSFORM_RANGES",
    "ClusterSettings",
    "Draw",
    "DrawSettings",
    "EvaluationSettings",
    "ExportSettings",
    "ExtractionSettings",
    "FormatName",
    "InferenceSettings",
    "Logger",
    "ModelSettings",
    "Optimizer",
    "Precision",
    "Refinement",
    "Regime",
    "Schedule",
    "ServeSettings",
    "SpectralSettings",
    "Strategy",
    "TableFormat",
    "TileSettings",
    "TrainSettings",
    "TransformSettings",
    "UnseenPixels",
    "change_inference",
    "check_segments_used",
    "check_threshold",
    "flat",
    "from_legacy",
    "is_own",
    "known_formats",
    "update_legacy",
]
