"""Named data sets, uploaded ones, and what a training draws its batches from."""

from models.data.archive import UploadLimits
from models.data.images import DataError, Dataset, ImageSet, Progress, subset
from models.data.spec import DATASETS, DatasetEntry
from models.data.uploads import UploadSummary, check_upload, load

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "DatasetEntry",
    "ImageSet",
    "Progress",
    "UploadLimits",
    "UploadSummary",
    "check_upload",
    "load",
    "subset",
]
