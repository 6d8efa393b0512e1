"""What passes learn from data: samples for a graph, and streaming statistics of its values."""

from hardy.compiler.calibration.clipping import METHODS, clip_rows
from hardy.compiler.calibration.data import Feed, Samples, inputs_of, open_samples, samples_for
from hardy.compiler.calibration.grid import Grid
from hardy.compiler.calibration.histogram import Histogram
from hardy.compiler.calibration.observe import Statistic, observe
from hardy.compiler.calibration.statistics import ChannelRange, Moments, Range, SecondMoments

__all__ = [
    "METHODS",
    "ChannelRange",
    "Feed",
    "Grid",
    "Histogram",
    "Moments",
    "Range",
    "Samples",
    "SecondMoments",
    "Statistic",
    "clip_rows",
    "inputs_of",
    "observe",
    "open_samples",
    "samples_for",
]
