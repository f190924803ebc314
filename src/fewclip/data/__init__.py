"""Labelled images: the 15 published data sets, folders, CSV files, Hugging Face objects, embedded sets, lists.

Knows neither methods nor protocols.
"""

from __future__ import annotations

from fewclip.data.dataset import Dataset
from fewclip.data.read import Data, from_pairs, read_data

__all__ = ["Data", "Dataset", "from_pairs", "read_data"]
