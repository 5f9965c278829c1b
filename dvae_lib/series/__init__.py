"""A trained model at work on series in the units of the data: forecasts, gaps filled in, scores, codes.

Arrays come in and go out as arrays, DataFrames as DataFrames with their times and columns. New music and
motion goes into files (`write_frames`).
"""

from dvae_lib.series.tables import Table, following_index
from dvae_lib.series.trained import Encoded, Prediction, TrainedModel
from dvae_lib.series.written import check_can_be_written, write_frames

__all__ = [
    "Encoded",
    "Prediction",
    "Table",
    "TrainedModel",
    "check_can_be_written",
    "following_index",
    "write_frames",
]
