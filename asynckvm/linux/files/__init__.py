"""Open files: the base of them all, the table of descriptors, and a module for each kind that belongs to no file system."""

from asynckvm.linux.files.open_file import CHUNK, O_ACCESS, O_CHANGEABLE, O_LARGEFILE, OpenFile
from asynckvm.linux.files.table import DESCRIPTORS, DESCRIPTORS_MAX, DescriptorTable

__all__ = ["CHUNK", "DESCRIPTORS", "DESCRIPTORS_MAX", "O_ACCESS", "O_CHANGEABLE", "O_LARGEFILE", "DescriptorTable", "OpenFile"]
