"""Predictions for any number of images, into one file (docs/scaling.md; needs the extra `scale`)."""

from fewclip.bulk.run import Done, Job, label

__all__ = ["Done", "Job", "label"]
