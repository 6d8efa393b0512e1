"""What passes learn from data: samples for a graph, and streaming statistics of its values."""

from hardy.compiler.calibration.data import Feed, Samples, open_samples
from hardy.compiler.calibration.observe import Statistic, observe
from hardy.compiler.calibration.statistics import ChannelRange, Moments, Range

__all__ = [
    "ChannelRange",
    "Feed",
    "Moments",
    "Range",
    "Samples",
    "Statistic",
    "observe",
    "open_samples",
]
