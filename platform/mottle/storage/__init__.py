"""Folders on any storage that pyarrow speaks (local disks, object stores), and YAML files that know the line of every key."""

from mottle.storage.folder import Folder as Folder
