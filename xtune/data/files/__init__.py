"""Every kind of file that people bring as a stream of records."""

from xtune.data.files.read import data_files, read_records
from xtune.data.files.record import Record

__all__ = ["Record", "data_files", "read_records"]
