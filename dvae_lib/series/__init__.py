"""A trained model at work on series in the units of the data: forecasts, gaps filled in, scores, codes.

Arrays come in and go out as arrays, DataFrames as DataFrames with their times and columns.
"""

from dvae_lib.series.tables import Table, following_index
from dvae_lib.series.trained import Encoded, Prediction, TrainedModel

__all__ = ["Encoded", "Prediction", "Table", "TrainedModel", "following_index"]
